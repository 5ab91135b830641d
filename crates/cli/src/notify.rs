//! Telling others of runs: to whom, and by which process.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use blackstart_core::history::time_text;
use blackstart_core::notify::Route;
use blackstart_core::report::{Parts, Report};
use blackstart_notify::{Flushed, Heard, Orders, Patience};
use serde::{Deserialize, Serialize};

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
    routes: Vec<Route>,
    /// The same as they were written, for another process to read.
    typed: Vec<Typed>,
    /// Alerts are repeated.
    all: bool,
    /// How often they are told of a run that goes on.
    every: Duration,
    /// What is wrong with the host's own targets: that stops nobody.
    remarks: Vec<String>,
    /// What was asked for this run alone, if anything was.
    asked: Option<blackstart_notify::Typed>,
}

/// A target as it was written, and where relative paths of it are meant from. It may have a secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Typed {
    text: String,
    from: PathBuf,
}

impl fmt::Debug for Typed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Typed(…)")
    }
}

impl Telling {
    /// What was typed, and the host's. The errors are those of what was typed.
    pub(crate) fn of(typed: &NotifyTyped, here: &Path) -> Result<Self, Vec<String>> {
        let mut telling = Self {
            all: typed.notify_all,
            every: typed.notify_every,
            asked: (typed.notify_all || !typed.notify.is_empty()).then(|| {
                blackstart_notify::Typed {
                    targets: typed.notify.clone(),
                    all: typed.notify_all,
                    here: here.to_owned(),
                }
            }),
            ..Self::default()
        };
        let mut wrong = Vec::new();
        for text in typed.notify.iter().filter(|text| *text != NONE) {
            match Route::parse(text, here) {
                Ok(route) => telling.add(route, text, here),
                // What was typed may be a secret.
                Err(why) => wrong.push(format!("cannot use a target of --notify: {why}")),
            }
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        if !typed.notify.iter().any(|text| text == NONE) {
            telling.add_those_of_host(Inherits::OfCommand);
        }
        Ok(telling)
    }

    /// The host's alone.
    pub(crate) fn of_host() -> Self {
        let mut telling = Self::default();
        telling.add_those_of_host(Inherits::Nothing);
        telling
    }

    fn add_those_of_host(&mut self, inherits: Inherits) {
        let named = std::env::var_os("BLACKSTART_NOTIFY").filter(|it| !it.is_empty());
        let path = PathBuf::from(named.unwrap_or_else(|| OF_HOST.into()));
        let text = match list_at(&path) {
            List::None => return,
            List::Here => blackstart_notify::text_of(&path).map_err(|error| {
                vec![format!(
                    "the targets in {} are not told: {error}",
                    path.display()
                )]
            }),
            List::Elsewhere => {
                let heard = written(&Orders::of_targets(&path), None, inherits);
                heard.text.ok_or(heard.warnings)
            }
        };
        let text = match text {
            Ok(text) => text,
            Err(why) => return self.remarks.extend(why),
        };
        let beside = path.parent().unwrap_or(Path::new("/"));
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match Route::parse(line, beside) {
                Ok(route) => self.add(route, line, beside),
                Err(why) => self.remarks.push(format!(
                    "{}:{number}: this target is not told: {why}",
                    path.display()
                )),
            }
        }
    }

    fn add(&mut self, route: Route, text: &str, from: &Path) {
        if !self.routes.contains(&route) {
            self.routes.push(route);
            self.typed.push(Typed {
                text: text.to_owned(),
                from: from.to_owned(),
            });
        }
    }

    /// What another process of ours was given by [`Self::typed`].
    pub(crate) fn again(typed: Vec<Typed>) -> Self {
        let mut telling = Self::default();
        for Typed { text, from } in typed {
            if let Ok(route) = Route::parse(&text, &from) {
                telling.add(route, &text, &from);
            }
        }
        telling
    }

    pub(crate) fn typed(&self) -> &[Typed] {
        &self.typed
    }

    pub(crate) fn every(&self) -> Duration {
        self.every
    }

    /// Keep what was typed while the run is on, for whoever tells of it if this process is killed.
    pub(crate) fn keep(&self, state: &Path, run: &str) {
        if let Some(Err(error)) = self
            .asked
            .as_ref()
            .map(|asked| blackstart_notify::keep(state, run, asked))
        {
            tracing::debug!(%error, "targets that were typed are not kept");
        }
    }

    /// They were told. Of a run that is not `finished` somebody else tells once more.
    pub(crate) fn let_go(&self, state: &Path, run: &str, finished: bool) {
        if self.asked.is_some() && finished {
            blackstart_notify::take(state, run);
        }
    }

    /// Tell them of a run. Nothing that fails here changes how it exits.
    pub(crate) fn tell(&self, report: &dyn Parts, state: &Path, output: Output) {
        for remark in &self.remarks {
            output.warning(&plain(remark));
        }
        if self.routes.is_empty() {
            return;
        }
        let mut done = blackstart_notify::tell(report, &self.routes, self.all, state);
        if !done.orders.is_empty() {
            done.warnings
                .extend(written(&done.orders, Some(state), Inherits::Nothing).warnings);
        }
        for warning in &done.warnings {
            output.warning(&plain(warning));
        }
    }
}

/// Tell of a run whose supervisor had ended, by its report: the host's targets, and those that were typed for it.
pub(crate) fn tell_of_adopted(report: &Path, state: &Path, output: Output) {
    let run = report.parent().and_then(|dir| dir.file_name()?.to_str());
    let asked = run.and_then(|run| blackstart_notify::take(state, run));
    let telling = match asked {
        // They were targets when they were typed.
        Some(asked) => {
            let again = NotifyTyped {
                notify: asked.targets,
                notify_all: asked.all,
                ..NotifyTyped::default()
            };
            Telling::of(&again, &asked.here).unwrap_or_else(|_| Telling::of_host())
        }
        None => Telling::of_host(),
    };
    if telling.routes.is_empty() && telling.remarks.is_empty() {
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
    if blackstart_notify::waits(state) {
        let started =
            ourselves("--local", Some(state), Inherits::Nothing).and_then(|mut command| {
                let command = command.stdin(Stdio::null()).stdout(Stdio::null());
                command.spawn().map(look_after)
            });
        if let Err(error) = started {
            tracing::debug!(%error, "writer of what is told here");
        }
    }
    if !blackstart_notify::due(state) {
        return;
    }
    if let Err(error) = start_sender(state) {
        tracing::debug!(%error, "sender of alerts");
    }
}

fn start_sender(state: &Path) -> io::Result<()> {
    let sender = ourselves("--unattended", Some(state), Inherits::Nothing)?
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()?;
    look_after(sender);
    Ok(())
}

/// What another process of ours gets of what we have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inherits {
    /// Whatever we start from here on gets no descriptor.
    Nothing,
    /// The command is still to be started, and to inherit what its caller has for it: the process lets go of that by itself.
    OfCommand,
}

/// Another process of ours: it has nothing of ours but its environment.
pub(crate) fn ourselves(
    how: &str,
    state: Option<&Path>,
    inherits: Inherits,
) -> io::Result<Command> {
    if inherits == Inherits::Nothing {
        blackstart_guard::inherit_nothing()?;
    }
    // The very program that runs, also where its file was replaced since.
    let mut command = Command::new("/proc/self/exe");
    command
        .arg("notify")
        .args(how.starts_with("--").then_some("flush"))
        .arg(how)
        .current_dir("/")
        .stderr(Stdio::null());
    if inherits == Inherits::OfCommand {
        command.arg("--shed");
    }
    if let Some(state) = state {
        command.env("BLACKSTART_STATE", state);
    }
    Ok(command)
}

/// Somebody hears of its end: whoever starts many of them, and lasts, would keep what is left of each.
fn look_after(mut child: Child) {
    let _unknown = std::thread::Builder::new()
        .stack_size(64 << 10)
        .spawn(move || child.wait());
}

/// Have written what is to be written on this host, and hear what comes of it, for a second at most.
pub(crate) fn written(orders: &Orders, state: Option<&Path>, inherits: Inherits) -> Heard {
    let start = || {
        ourselves("--local", state, inherits)?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
    };
    let mut writer = match start() {
        Ok(writer) => writer,
        Err(error) => {
            return Heard {
                warnings: vec![format!(
                    "what is told on this host waits, since the process that writes it cannot be started: {error}"
                )],
                ..Heard::default()
            };
        }
    };
    let ends = writer.stdin.take().zip(writer.stdout.take());
    let heard = ends.map_or_else(Heard::default, |(to, from)| {
        blackstart_notify::hear(orders, to, from)
    });
    match inherits {
        Inherits::Nothing => look_after(writer),
        // No thread is made before the guard has blocked its signals, or one of these would end it. One that hangs stays our child.
        Inherits::OfCommand if heard.answered => drop(writer.wait()),
        Inherits::OfCommand => {}
    }
    heard
}

/// Where the list of targets is.
enum List {
    None,
    /// On the disk that everything is on which a run needs to start.
    Here,
    /// It may be on a server.
    Elsewhere,
}

fn list_at(path: &Path) -> List {
    if path != Path::new(OF_HOST) {
        return List::Elsewhere;
    }
    // A link may lead anywhere.
    let about = fs::symlink_metadata(path);
    let etc = fs::symlink_metadata("/etc");
    match (about, etc) {
        (Err(error), _) if error.kind() == io::ErrorKind::NotFound => List::None,
        (Ok(file), Ok(etc)) if file.is_file() && file.dev() == etc.dev() => List::Here,
        _ => List::Elsewhere,
    }
}

/// `notify flush`.
pub(crate) fn flush(typed: &Flush, output: Output) -> u8 {
    let state = match resolve::trusted_state(std::env::var_os("BLACKSTART_STATE").as_deref()) {
        Ok(state) => state,
        Err(message) => {
            output.error(&message);
            return FAILED;
        }
    };
    if typed.shed {
        let why = match blackstart_guard::inherit_nothing() {
            Ok(()) => Command::new("/proc/self/exe")
                .args(["notify", "flush", "--local"])
                .exec(),
            Err(error) => error,
        };
        output.error(&plain(&format!(
            "this process cannot be started anew: {why}"
        )));
        return FAILED;
    }
    if typed.local {
        let _leads_one = rustix::process::setsid();
        return match blackstart_notify::write(&state, io::stdin(), io::stdout()) {
            Ok(()) => 0,
            Err(_) => FAILED,
        };
    }
    let patience = if typed.unattended {
        // Out of the session of whoever started it: no terminal ends it, and none is held by it. It leads none yet,
        // unless somebody typed this.
        let _leads_one = rustix::process::setsid();
        Patience::Unattended
    } else {
        Patience::Attended
    };
    if !typed.unattended && blackstart_notify::waits(&state) {
        for warning in written(&Orders::default(), Some(&state), Inherits::Nothing).warnings {
            output.warning(&plain(&warning));
        }
    }
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
