//! At the end of a run: what is to be written goes into a queue, and alerts into the spool.

use std::io;
use std::path::Path;
use std::time::Duration;

use blackstart_core::notify::{
    Form, Memory, Route, Sink, Tally, Target, Told, alertmanager, logs, slack, traces, webhook,
};
use blackstart_core::report::Parts;
use serde_json::Value;

use crate::now;
use crate::place::{Kept, Place};
use crate::queue::{self, Job, Local, What};
use crate::spool::{self, Message};
use crate::write::Orders;

/// Another run ends at the same time: it needs a few milliseconds.
const PATIENCE: Duration = Duration::from_millis(250);

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Done {
    /// What could not be told, and why; in one line each, without secrets.
    pub warnings: Vec<String>,
    /// Messages wait to be sent: see [`crate::flush`].
    pub queued: bool,
    /// What is to be written, by a process of its own: see [`crate::write()`].
    pub orders: Orders,
}

/// Tell all targets of a run; of one that goes on, what is news. `all`: alerts repeat what was told before.
///
/// Nothing here waits for anyone but for the disk that has the state. What is spooled is there before it counts as told: whoever is killed
/// in between tells twice, never not at all.
pub fn tell(report: &dyn Parts, routes: &[Route], all: bool, state: &Path) -> Done {
    let told = Told::of(report).up_to(now());
    let mut done = Done::default();
    let place = match Place::open(state) {
        Ok(place) => Some(place),
        Err(error) => {
            done.warnings.push(format!(
                "what was told before is not known, and no alert can be kept to be sent: {error}"
            ));
            None
        }
    };
    let lock = place
        .as_ref()
        .and_then(|place| place.lock("lock", PATIENCE).ok().flatten());
    let mut kept = match &place {
        Some(place) => {
            let (kept, wrong) = place.kept();
            done.warnings.extend(wrong);
            kept
        }
        None => Kept::default(),
    };
    for route in routes {
        let target = &route.target;
        let mut telling = Telling {
            report,
            told: &told.along(route, routes),
            all,
            place: place.as_ref(),
            done: &mut done,
        };
        telling.one(target, &mut kept);
        if let Target::Otlp(Sink::UrlIn(path)) | Target::Alert(_, Sink::UrlIn(path)) = target
            && !told.run.goes_on()
        {
            telling.done.orders.look_at(path);
        }
    }
    kept.memory.forget(now());
    if let Some(place) = &place {
        match &lock {
            // Whoever has it keeps what it knows; ours is lost, and told again.
            None => done.warnings.push(
                "other runs end at the same time: what was told now may be told again".to_owned(),
            ),
            Some(_) => {
                if let Err(error) = place.keep(&kept) {
                    done.warnings.push(format!(
                        "what was told now may be told again, since that cannot be kept: {error}"
                    ));
                }
            }
        }
    }
    done
}

struct Telling<'a> {
    report: &'a dyn Parts,
    told: &'a Told,
    all: bool,
    place: Option<&'a Place>,
    done: &'a mut Done,
}

impl Telling<'_> {
    fn one(&mut self, target: &Target, kept: &mut Kept) {
        let result = match target {
            Target::Alert(form, sink) => self.alert(target, *form, sink, &mut kept.memory),
            Target::Otlp(sink) => {
                let told = self.told.to(target, &mut kept.memory).news();
                let trace = (!told.run.goes_on()).then(|| traces(self.report, &told));
                self.put(Form::Traces, sink, trace)
                    .and_then(|()| self.put(Form::Logs, sink, logs(&told)))
            }
            Target::File(_) | Target::Journald(_) => {
                let told = self.told.to(target, &mut kept.memory).news();
                if !(told.run.goes_on() && told.findings.is_empty()) {
                    self.local(target, What::Lines(Box::new(told)));
                }
                Ok(())
            }
            // It is counted when it has ended.
            Target::Metrics(_) if self.told.run.goes_on() => Ok(()),
            Target::Metrics(_) => {
                self.local(target, What::Sums(Tally::of(self.told)));
                Ok(())
            }
        };
        if let Err(error) = result {
            self.done
                .warnings
                .push(format!("cannot tell {target}: {error}"));
        }
    }

    /// Into the queue of what is written on this host; where that cannot be, into the writer's hands.
    fn local(&mut self, target: &Target, what: What) {
        let Some(to) = Local::of(target) else { return };
        self.done.orders.want(to.clone());
        let job = Job { to, what };
        match self.place.map(|place| queue::put(place, &job)) {
            Some(Ok(0)) => {}
            Some(Ok(gone)) => self.done.warnings.push(format!(
                "{target}: what {gone} runs have to tell is dropped, since it does not answer"
            )),
            Some(Err(error)) => {
                tracing::debug!(%error, "what is written");
                self.done.orders.with(job);
            }
            None => self.done.orders.with(job),
        }
    }

    fn alert(
        &mut self,
        target: &Target,
        form: Form,
        sink: &Sink,
        memory: &mut Memory,
    ) -> io::Result<()> {
        let mut after = memory.clone();
        let told = self.told.to(target, &mut after).alerting(form, self.all);
        let body = match form {
            Form::Slack => slack(&told),
            Form::Alertmanager => alertmanager(&told),
            _ => webhook(&told),
        };
        self.put(form, sink, body)?;
        *memory = after;
        Ok(())
    }

    /// Into the spool, if there is something to be sent.
    fn put(&mut self, form: Form, sink: &Sink, body: Option<Value>) -> io::Result<()> {
        let (Some(place), Some(body)) = (self.place, body) else {
            return Ok(());
        };
        let message = Message {
            form,
            to: sink.clone(),
            body,
            tried: 0,
            why: String::new(),
        };
        spool::put(place, &message)?;
        self.done.queued = true;
        let gone = spool::tidy(place);
        if gone > 0 {
            self.done.warnings.push(format!(
                "{gone} messages that could not be sent for long are dropped: there are too many, or they are older than a week"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use blackstart_core::report::Report;
    use serde_json::json;

    use super::*;
    use crate::spool::entries;

    fn report() -> Report {
        let time = "2026-11-28T12:00:00.000000Z";
        serde_json::from_value(json!({
            "schema_version": 1,
            "run": {
                "id": "0193f8c2-0000-7000-8000-000000000001", "service": "mysql", "owner": null,
                "command": ["x"], "host": "db1", "mode": "enforce", "policy": null, "started": time, "ended": null,
                "exit_code": null, "limits": {}, "usage": {}, "kernel": { "release": "6.12", "features": [] }, "guarded": "yes"
            },
            "subjects": [], "names": [], "flows": [], "delegates": [],
            "findings": [{
                "id": "f", "kind": "leftover", "severity": "warning", "title": "t", "owner": null, "command": null,
                "subjects": [], "rule": null, "reason": null, "fix": null
            }],
            "coverage": {
                "attempts": 0, "recorded": 0, "lost": 0, "attributed": 0, "unsupervised_seconds": 0.0, "gaps": []
            }
        }))
        .unwrap()
    }

    fn targets() -> Vec<Route> {
        vec![Route::parse("webhook:http://127.0.0.1:1/", Path::new("/")).unwrap()]
    }

    #[test]
    fn what_cannot_be_kept_is_told_again_and_never_lost() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::open(dir.path()).unwrap();
        let waiting = || entries(&place).unwrap().len();
        // As if it had been killed after each message.
        fs::create_dir(dir.path().join("notify/kept.json")).unwrap();
        for count in 1..=2 {
            let done = tell(&report(), &targets(), false, dir.path());
            assert!(
                done.warnings.iter().any(|it| it.contains("told again")),
                "{done:?}"
            );
            assert_eq!((done.queued, waiting()), (true, count));
        }
        fs::remove_dir(dir.path().join("notify/kept.json")).unwrap();
        assert!(tell(&report(), &targets(), false, dir.path()).queued);
        assert_eq!(
            tell(&report(), &targets(), false, dir.path()),
            Done::default()
        );
        // What cannot be read is set aside.
        fs::write(dir.path().join("notify/kept.json"), "{\"memory\":").unwrap();
        let done = tell(&report(), &targets(), false, dir.path());
        assert!(
            done.queued && done.warnings[0].contains("kept.json.set-aside"),
            "{done:?}"
        );
        assert!(dir.path().join("notify/kept.json.set-aside").exists());
        assert_eq!(waiting(), 4);
    }

    #[test]
    fn another_run_that_ends_at_the_same_time_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::open(dir.path()).unwrap();
        let _held = place.lock("lock", Duration::ZERO).unwrap().unwrap();
        let began = std::time::Instant::now();
        let done = tell(&report(), &targets(), false, dir.path());
        assert!(began.elapsed() < Duration::from_secs(20));
        assert!(done.queued && done.warnings.len() == 1, "{done:?}");
    }
}
