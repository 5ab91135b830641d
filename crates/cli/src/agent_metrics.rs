//! What the agent tells of itself: counted from what it has to tell anyway, and written now and then.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use blackstart_guard::{Cause, Event, Why};
use blackstart_notify::{AgentSums, Orders};

use crate::notify::{Inherits, written};

/// Whoever collects comes by more seldom.
const EVERY: Duration = Duration::from_secs(5);
/// The file is new at least so often: who looks at its age sees that the agent lives.
const AT_LEAST: Duration = Duration::from_secs(60);
const STACK: usize = 128 << 10;

/// The sums of one agent.
#[derive(Clone)]
pub(crate) struct Metrics {
    file: PathBuf,
    state: PathBuf,
    counted: Arc<Mutex<Counted>>,
}

#[derive(Default)]
struct Counted {
    sums: AgentSums,
    /// Runs that are guarded, by their ids.
    guarded: BTreeSet<String>,
}

impl Counted {
    fn take(&mut self, event: &Event) {
        let Self { sums, guarded } = self;
        match event {
            Event::Listening | Event::Told { .. } | Event::Left { .. } => {}
            Event::Spares(ready) => sums.spares = *ready as u64,
            Event::Refused { why: reason, .. } => {
                *sums.refused.entry(word(*reason)).or_default() += 1;
            }
            Event::Began { run, .. } | Event::Attached { run, .. } => {
                sums.began += 1;
                guarded.insert(run.clone());
            }
            Event::TakenUp { run } => {
                sums.taken_up += 1;
                guarded.insert(run.clone());
            }
            Event::Over { run, .. } => {
                sums.over += 1;
                guarded.remove(run);
            }
            Event::Adopted(report) => {
                sums.over += 1;
                let dir = report.parent().and_then(Path::file_name);
                if let Some(run) = dir.and_then(|name| name.to_str()) {
                    guarded.remove(run);
                }
            }
            Event::Unguarded { .. } | Event::Warning(_) => sums.warnings += 1,
        }
    }
}

fn word(why: Why) -> &'static str {
    match why {
        Why::Unknown => "unknown",
        Why::NotPermitted => "not_permitted",
        Why::TooMany => "too_many",
        Why::Run(Cause::Request) => "order",
        Why::Run(_) => "host",
    }
}

impl Metrics {
    /// Kept in `file`.
    pub(crate) fn new(file: &Path, state: &Path) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let started = since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(0));
        let counted = Counted {
            sums: AgentSums {
                started,
                ..AgentSums::default()
            },
            ..Counted::default()
        };
        Self {
            file: file.to_owned(),
            state: state.to_owned(),
            counted: Arc::new(Mutex::new(counted)),
        }
    }

    /// Count what the agent has to tell. From its first call on, in a thread that has the agent's own block of signals, it is written.
    pub(crate) fn take(&self, event: &Event) {
        let counted = &mut *self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        counted.take(event);
        if let Event::Listening = event {
            let own = self.clone();
            let started = thread::Builder::new()
                .name("metrics".to_owned())
                .stack_size(STACK)
                .spawn(move || own.keep());
            if let Err(error) = started {
                tracing::warn!(%error, "no metrics of the agent are kept");
            }
        }
    }

    fn sums(&self) -> AgentSums {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        // One that failed after its beginning is told as refused.
        let runs = self.state.join("runs");
        counted
            .guarded
            .retain(|run| runs.join(run).join("lock").exists());
        let guards = counted.guarded.len() as u64;
        let sums = AgentSums {
            guards,
            ..counted.sums.clone()
        };
        drop(counted);
        sums.with_waiting(&self.state)
    }

    fn keep(&self) -> ! {
        let mut told: Option<(AgentSums, Instant)> = None;
        loop {
            let sums = self.sums();
            let is_new =
                |(before, at): &(AgentSums, Instant)| *before != sums || at.elapsed() >= AT_LEAST;
            if told.as_ref().is_none_or(is_new) {
                match sums.exposition() {
                    Ok(text) => {
                        let orders = Orders::of_text(&self.file, text);
                        for why in written(&orders, Some(&self.state), Inherits::Nothing).warnings {
                            tracing::warn!(why, "metrics of the agent");
                        }
                    }
                    Err(error) => tracing::warn!(%error, "metrics of the agent"),
                }
                told = Some((sums, Instant::now()));
            }
            thread::sleep(EVERY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_tells_is_counted() {
        let mut counted = Counted::default();
        let run = |run: &str| run.to_owned();
        let refused = |why| Event::Refused {
            caller: None,
            why,
            text: String::new(),
        };
        for event in [
            Event::Listening,
            Event::TakenUp { run: run("a") },
            Event::Began {
                run: run("b"),
                uid: 1,
                pid: 2,
            },
            Event::Began {
                run: run("c"),
                uid: 1,
                pid: 3,
            },
            refused(Why::NotPermitted),
            refused(Why::Run(Cause::Request)),
            refused(Why::Run(Cause::System)),
            refused(Why::Run(Cause::System)),
            Event::Spares(2),
            Event::Adopted("/state/runs/a/report.json".into()),
            Event::Over {
                run: run("b"),
                record: None,
                finished: true,
            },
        ] {
            counted.take(&event);
        }
        let Counted { sums, guarded } = counted;
        assert_eq!(guarded, BTreeSet::from([run("c")]));
        assert_eq!(
            (sums.began, sums.over, sums.taken_up, sums.spares),
            (2, 2, 1, 2)
        );
        let refused: Vec<_> = sums.refused.into_iter().collect();
        assert_eq!(refused, [("host", 2), ("not_permitted", 1), ("order", 1)]);
    }
}
