//! A run and the egress lock of its deployment.

use std::io;

use blackstart_core::lock::{Lock, Places};
use blackstart_core::report::{Finding, Parts};
use sha2::{Digest as _, Sha256};

use crate::{LockOrder, files};

/// The largest executable that a digest is made of.
const MOST_BYTES: u64 = 1 << 30;

/// The lock that this run makes, and how it differs from the one that was written. Executables are read as they are
/// now that the run has ended.
pub(crate) fn compare(report: &dyn Parts, order: &LockOrder) -> (Lock, Vec<Finding>) {
    let started_in = std::env::current_dir().ok();
    let places = Places {
        started_in: started_in.as_deref().and_then(|path| path.to_str()),
        beside: order.beside.to_str(),
    };
    let now = Lock::of(report, places, &mut digest);
    let found = order
        .known
        .as_ref()
        .map(|known| known.compare(&now, report, places))
        .unwrap_or_default();
    (now, found)
}

fn digest(path: &str) -> Option<String> {
    let mut file = files::open(path, MOST_BYTES)?;
    let mut digest = Sha256::new();
    io::copy(&mut file, &mut digest).ok()?;
    Some(format!("sha256:{:x}", digest.finalize()))
}
