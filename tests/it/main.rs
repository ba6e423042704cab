//! Scenarios on the stand, one file a topic.

mod stand;
