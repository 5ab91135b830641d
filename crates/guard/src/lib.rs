//! One guarded run.
mod answer;
mod cgroup;
mod resolv;
