//! One guarded run.
mod answer;
mod cgroup;
mod resolv;

/// Facts about this host, for `doctor`.
pub use blackstart_kernel::support;
