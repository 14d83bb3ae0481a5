// The search for neighbours for the baseline of this architecture.
#define HR_QUERY_POINTS kQueryPointsBase
#include "points_query.inl"
