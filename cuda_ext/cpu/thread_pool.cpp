#include "thread_pool.h"

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>

namespace hr {
namespace {

struct Job {
  const std::function<void(int64_t)>* task = nullptr;
  int64_t count = 0;
  std::atomic<int64_t> next{0};
  std::exception_ptr failure;  // the first one; guarded by failing
  std::mutex failing;

  void work() {
    try {
      for (int64_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) (*task)(i);
    } catch (...) {
      next.store(count);  // the others stop at their next task
      std::lock_guard<std::mutex> lock(failing);
      if (!failure) failure = std::current_exception();
    }
  }
};

// Ops run several short jobs one after another, and waking a sleeping thread takes about as long as such a job: whoever has
// nothing to do looks for some 50 microseconds before going to sleep. No longer: others may have use for the core.
template <class Ready>
void wait_briefly(const Ready& ready) {
  constexpr int kLooks = 1000;
  for (int i = 0; i < kLooks && !ready(); ++i) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }
}

class Pool {
 public:
  void run(int64_t count, int helpers, const std::function<void(int64_t)>& task) {
    std::lock_guard<std::mutex> one_job_at_a_time(callers_);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      while (started_ < helpers) std::thread(&Pool::serve, this, started_++).detach();
      job_.task = &task;
      job_.count = count;
      job_.next.store(0);
      job_.failure = nullptr;
      helpers_ = helpers;
      open_ = true;
      ++generation_;
    }
    wake_.notify_all();
    job_.work();
    // A helper that has not woken by now (a busy machine) finds the job closed: nobody waits for it.
    {
      std::lock_guard<std::mutex> lock(mutex_);
      open_ = false;
    }
    wait_briefly([&] { return active_.load() == 0; });
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [&] { return active_ == 0; });
    if (job_.failure) std::rethrow_exception(job_.failure);
  }

 private:
  void serve(int index) {
    uint64_t seen = 0;
    bool worked = false;
    for (;;) {
      if (worked) wait_briefly([&] { return generation_.load() != seen; });
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [&] { return generation_.load() != seen; });
      seen = generation_.load();
      worked = open_ && index < helpers_;
      if (!worked) continue;
      ++active_;
      lock.unlock();
      job_.work();
      lock.lock();
      if (--active_ == 0) done_.notify_one();
    }
  }

  std::mutex callers_, mutex_;
  std::condition_variable wake_, done_;
  Job job_;
  std::atomic<uint64_t> generation_{0};  // changed under the mutex, looked at without
  std::atomic<int> active_{0};           // the same
  int started_ = 0, helpers_ = 0;
  bool open_ = false;
};

// Threads do not survive fork() (torch data loaders fork), so a child process gets a fresh pool. The old one is leaked
// on purpose, as is the last one at exit: its detached threads may still be waiting on it.
Pool& pool_of_this_process() {
  static std::mutex guard;
  static Pool* pool = nullptr;
  static pid_t owner = 0;
  std::lock_guard<std::mutex> lock(guard);
  if (!pool || owner != getpid()) {
    pool = new Pool();
    owner = getpid();
  }
  return *pool;
}

}  // namespace

void parallel_for(int64_t count, int num_threads, const std::function<void(int64_t)>& task) {
  const int64_t helpers = (count < num_threads ? count : num_threads) - 1;
  if (helpers <= 0) {
    for (int64_t i = 0; i < count; ++i) task(i);
    return;
  }
  pool_of_this_process().run(count, static_cast<int>(helpers), task);
}

}  // namespace hr
