//! One thread that says for all guards at rest that somebody looks after them. Each would wake up once a second for that alone, and
//! of hundreds that is most of what they cost.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::Duration;

use blackstart_kernel::Heart;

use super::STACK;
use super::office::locked;

/// Well within the three seconds after which the kernel takes a supervisor for dead, the moment in which one begins to wait included.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Those of all guards.
#[derive(Default)]
pub(crate) struct Hearts(Mutex<Vec<Weak<Beating>>>);

/// That of one guard, which beats without it while it waits, and only then: one that hangs is to be taken for dead.
pub(crate) struct Beating {
    heart: Heart,
    waits: AtomicBool,
}

impl Hearts {
    /// Start the thread.
    pub(crate) fn start() -> io::Result<Arc<Self>> {
        let hearts = Arc::new(Self::default());
        let own = Arc::clone(&hearts);
        thread::Builder::new()
            .name("hearts".to_owned())
            .stack_size(STACK)
            .spawn(move || {
                loop {
                    thread::sleep(HEARTBEAT);
                    own.beat();
                }
            })?;
        Ok(hearts)
    }

    /// From now on as long as it is held.
    pub(crate) fn add(&self, heart: Heart) -> Arc<Beating> {
        let beating = Arc::new(Beating {
            heart,
            waits: AtomicBool::new(false),
        });
        locked(&self.0).push(Arc::downgrade(&beating));
        beating
    }

    fn beat(&self) {
        locked(&self.0).retain(|one| {
            let Some(one) = one.upgrade() else {
                return false;
            };
            if one.waits.load(Ordering::Acquire) {
                one.heart.beat();
            }
            true
        });
    }
}

impl Beating {
    /// Wait for something, as `wait` does.
    pub(crate) fn while_waiting<T>(&self, wait: impl FnOnce() -> T) -> T {
        self.waits.store(true, Ordering::Release);
        let happened = wait();
        self.waits.store(false, Ordering::Release);
        happened
    }
}
