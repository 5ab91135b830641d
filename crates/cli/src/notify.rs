//! Telling others of runs: to whom, and by which process.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use blackstart_core::history::time_text;
use blackstart_core::notify::{Sink, Target};
use blackstart_core::report::{Parts, Report};
use blackstart_notify::{Flushed, Patience, Typed};

use crate::FAILED;
use crate::args::{Flush, NotifyTyped};
use crate::finish;
use crate::output::Output;
use crate::plain::plain;
use crate::resolve;

/// The targets that every run tells, unless `BLACKSTART_NOTIFY` says otherwise.
const OF_HOST: &str = "/etc/blackstart/notify";
/// The word for none of them.
pub(crate) const NONE: &str = "none";
/// Something waits.
const WAITS: u8 = 1;

/// Who is told.
#[derive(Debug, Clone, Default)]
pub(crate) struct Telling {
    targets: Vec<Target>,
    /// Alerts are repeated.
    all: bool,
    /// What is wrong with the host's own targets: that stops nobody.
    remarks: Vec<String>,
    /// What was typed, if anything was.
    typed: Option<Typed>,
}

impl Telling {
    /// What was typed, and the host's. The errors are those of what was typed.
    pub(crate) fn of(typed: &NotifyTyped, here: &Path) -> Result<Self, Vec<String>> {
        let mut telling = Self {
            all: typed.notify_all,
            typed: (typed.notify_all || !typed.notify.is_empty()).then(|| Typed {
                targets: typed.notify.clone(),
                all: typed.notify_all,
                here: here.to_owned(),
            }),
            ..Self::default()
        };
        let mut wrong = Vec::new();
        for text in typed.notify.iter().filter(|text| *text != NONE) {
            match Target::parse(text, here) {
                Ok(target) => telling.add(target),
                // What was typed may be a secret.
                Err(why) => wrong.push(format!("cannot use a target of --notify: {why}")),
            }
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        if !typed.notify.iter().any(|text| text == NONE) {
            telling.add_those_of_host();
        }
        Ok(telling)
    }

    /// The host's alone.
    fn of_host() -> Self {
        let mut telling = Self::default();
        telling.add_those_of_host();
        telling
    }

    fn add_those_of_host(&mut self) {
        let named = std::env::var_os("BLACKSTART_NOTIFY").filter(|it| !it.is_empty());
        let path = PathBuf::from(named.clone().unwrap_or_else(|| OF_HOST.into()));
        let text = match blackstart_notify::text_of(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && named.is_none() => return,
            Err(error) => {
                self.remarks.push(format!(
                    "the targets in {} are not told: {error}",
                    path.display()
                ));
                return;
            }
        };
        let beside = path.parent().unwrap_or(Path::new("/"));
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match Target::parse(line, beside) {
                Ok(target) => self.add(target),
                Err(why) => self.remarks.push(format!(
                    "{}:{number}: this target is not told: {why}",
                    path.display()
                )),
            }
        }
    }

    fn add(&mut self, target: Target) {
        // It is read when something is sent; that it cannot be is told while somebody looks on.
        if let Target::Otlp(Sink::UrlIn(path)) | Target::Alert(_, Sink::UrlIn(path)) = &target
            && let Err(error) = blackstart_notify::text_of(path)
        {
            let path = path.display();
            self.remarks
                .push(format!("nothing can be sent to the URL in {path}: {error}"));
        }
        if !self.targets.contains(&target) {
            self.targets.push(target);
        }
    }

    /// Keep what was typed while the run is on, for whoever tells of it if this process is killed.
    pub(crate) fn keep(&self, state: &Path, run: &str) {
        if let Some(Err(error)) = self
            .typed
            .as_ref()
            .map(|typed| blackstart_notify::keep(state, run, typed))
        {
            tracing::debug!(%error, "targets that were typed are not kept");
        }
    }

    /// They were told. Of a run that is not `finished` somebody else tells once more.
    pub(crate) fn let_go(&self, state: &Path, run: &str, finished: bool) {
        if self.typed.is_some() && finished {
            blackstart_notify::take(state, run);
        }
    }

    /// Tell them of a run. Nothing that fails here changes how it exits.
    pub(crate) fn tell(&self, report: &dyn Parts, state: &Path, output: Output) {
        for remark in &self.remarks {
            output.warning(&plain(remark));
        }
        if self.targets.is_empty() {
            return;
        }
        let done = blackstart_notify::tell(report, &self.targets, self.all, state);
        for warning in &done.warnings {
            output.warning(&plain(warning));
        }
    }
}

/// Tell of a run whose supervisor had ended, by its report: the host's targets, and those that were typed for it.
pub(crate) fn tell_of_adopted(report: &Path, state: &Path, output: Output) {
    let run = report.parent().and_then(|dir| dir.file_name()?.to_str());
    let typed = run.and_then(|run| blackstart_notify::take(state, run));
    let telling = match typed {
        // They were targets when they were typed.
        Some(typed) => {
            let again = NotifyTyped {
                notify: typed.targets,
                notify_all: typed.all,
            };
            Telling::of(&again, &typed.here).unwrap_or_else(|_| Telling::of_host())
        }
        None => Telling::of_host(),
    };
    if telling.targets.is_empty() && telling.remarks.is_empty() {
        return;
    }
    let read = fs::read(report).map_err(|error| error.to_string());
    match read
        .and_then(|text| serde_json::from_slice::<Report>(&text).map_err(|error| error.to_string()))
    {
        Ok(report) => telling.tell(&report, state, output),
        Err(why) => output.warning(&plain(&format!(
            "nobody is told of the run in {}: {why}",
            report.display()
        ))),
    }
}

/// Have sent what is due, by a process of its own: it is in no run's cgroup, inherits nothing, ends by itself, and nobody
/// waits for it. Where it cannot be started, what is due waits for the next command.
pub(crate) fn send_what_is_due(state: &Path) {
    if !blackstart_notify::due(state) {
        return;
    }
    if let Err(error) = start_sender(state) {
        tracing::debug!(%error, "sender of alerts");
    }
}

fn start_sender(state: &Path) -> io::Result<()> {
    blackstart_guard::inherit_nothing()?;
    // The very program that runs, also where its file was replaced since.
    Command::new("/proc/self/exe")
        .args(["notify", "flush", "--unattended"])
        .env("BLACKSTART_STATE", state)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map(drop)
}

/// `notify flush`.
pub(crate) fn flush(typed: &Flush, output: Output) -> u8 {
    let state = match resolve::state_directory(std::env::var_os("BLACKSTART_STATE").as_deref()) {
        Ok(state) => state,
        Err(message) => {
            output.error(&message);
            return FAILED;
        }
    };
    let patience = if typed.unattended {
        // Out of the session of whoever started it: no terminal ends it, and none is held by it. It leads none yet,
        // unless somebody typed this.
        let _leads_one = rustix::process::setsid();
        Patience::Unattended
    } else {
        Patience::Attended
    };
    match blackstart_notify::flush(&state, patience) {
        Ok(flushed) => {
            let code = if flushed.waiting.is_empty() { 0 } else { WAITS };
            let text = if typed.unattended {
                String::new()
            } else {
                human(&flushed)
            };
            finish(output, &text, code)
        }
        Err(error) => {
            output.error(&plain(&format!(
                "cannot look at the alerts that wait in {}: {error}",
                state.display()
            )));
            FAILED
        }
    }
}

fn human(flushed: &Flushed) -> String {
    let mut text = format!("{} sent, {} waiting", flushed.sent, flushed.waiting.len());
    if flushed.dropped > 0 {
        text.push_str(&format!(
            ", {} dropped: too old, or too many",
            flushed.dropped
        ));
    }
    text.push('\n');
    for it in &flushed.waiting {
        let why = if it.why.is_empty() {
            "not tried yet"
        } else {
            &it.why
        };
        let line = format!(
            "  {} since {}, tried {} times: {why}",
            it.target,
            time_text(it.since),
            it.tried
        );
        text.push_str(&plain(&line));
        text.push('\n');
    }
    text
}
