//! What the agent guards, told of while it goes on: the host's targets and the history hear of it as of any run that lasts.
//!
//! One thread goes round, and has one process at a time do it, only for what has changed since the last time: no guard
//! waits for it, and hundreds of them need no more than one does.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use blackstart_guard::{Event, SPARE, last_checkpoint};

use crate::meanwhile::{HISTORY, Orders, SHARE, STACK, carried_out};
use crate::notify::Telling;

/// Who goes round.
#[derive(Clone)]
pub(super) struct Rounds {
    state: PathBuf,
    catalog: Option<PathBuf>,
    every: Duration,
    guarded: Arc<Mutex<HashMap<String, Known>>>,
}

/// What was told of a run.
#[derive(Debug, Clone, Default)]
struct Known {
    /// The checkpoint that it was told from.
    told: Option<SystemTime>,
    /// When the history had it.
    kept: Option<Instant>,
}

impl Known {
    /// Is there something to be told from this checkpoint; and is it the history's turn?
    fn due(&self, checkpoint: SystemTime, now: Instant) -> Option<bool> {
        if self.told == Some(checkpoint) {
            return None;
        }
        let is_kept = |at: Instant| now.duration_since(at) < HISTORY;
        Some(!self.kept.is_some_and(is_kept))
    }
}

impl Rounds {
    pub(super) fn new(state: &Path, catalog: Option<PathBuf>, every: Duration) -> Self {
        Self {
            state: state.to_owned(),
            catalog,
            every,
            guarded: Arc::default(),
        }
    }

    /// Hear what is guarded. The first round begins with the agent's first call, in a thread that has its block of signals.
    pub(super) fn take(&self, event: &Event) {
        match event {
            Event::Began { run, .. } | Event::Attached { run, .. } | Event::TakenUp { run } => {
                self.guarded().insert(run.clone(), Known::default());
            }
            Event::Over { run, .. } | Event::Left { run, .. } => {
                self.guarded().remove(run);
            }
            Event::Adopted(report) => {
                let dir = report.parent().and_then(Path::file_name);
                if let Some(run) = dir.and_then(|name| name.to_str()) {
                    self.guarded().remove(run);
                }
            }
            Event::Listening => {
                let own = self.clone();
                let started = thread::Builder::new()
                    .name("rounds".to_owned())
                    .stack_size(STACK)
                    .spawn(move || own.go());
                if let Err(error) = started {
                    tracing::warn!(%error, "nothing is told of what goes on until its end");
                }
            }
            _ => {}
        }
    }

    fn guarded(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.guarded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn go(&self) -> ! {
        let mut pause = self.every;
        loop {
            thread::sleep(pause);
            let began = Instant::now();
            self.round();
            pause = self.every.max(began.elapsed() * SHARE);
        }
    }

    fn round(&self) {
        // What was changed in the list counts from the next round on.
        let targets = Telling::of_host().typed().to_vec();
        let all: Vec<_> = self.guarded().clone().into_iter().collect();
        for (run, known) in all {
            let Some((dir, checkpoint)) = self.checkpoint(&run) else {
                continue;
            };
            let Some(history) = known.due(checkpoint, Instant::now()) else {
                continue;
            };
            if targets.is_empty() && !history {
                continue;
            }
            let orders = Orders {
                dir,
                targets: targets.clone(),
                owner: None,
                catalog: self.catalog.clone(),
                history,
            };
            let done = match carried_out(&orders, &self.state) {
                Ok(done) => done,
                Err(error) => {
                    tracing::debug!(%error, run, "telling of a run that goes on");
                    false
                }
            };
            if let (true, Some(known)) = (done, self.guarded().get_mut(&run)) {
                known.told = Some(checkpoint);
                if history {
                    known.kept = Some(Instant::now());
                }
            }
        }
    }

    /// Where a run has its state, and when it wrote it down last.
    fn checkpoint(&self, run: &str) -> Option<(PathBuf, SystemTime)> {
        let places = [self.state.as_path(), Path::new(SPARE)];
        let mut dirs = places.iter().map(|place| place.join("runs").join(run));
        dirs.find_map(|dir| Some((dir.clone(), last_checkpoint(&dir)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_not_changed_is_not_told_again_and_the_history_has_it_seldom() {
        let (first, next) = (
            SystemTime::UNIX_EPOCH,
            SystemTime::UNIX_EPOCH + Duration::from_secs(5),
        );
        let now = Instant::now();
        let new = Known::default();
        assert_eq!(new.due(first, now), Some(true));
        let told = Known {
            told: Some(first),
            kept: Some(now),
        };
        assert_eq!(told.due(first, now + HISTORY), None);
        assert_eq!(told.due(next, now), Some(false));
        assert_eq!(told.due(next, now + HISTORY), Some(true));
    }
}
