//! What was typed, made into what it means: files read, places checked, defaults filled in. Everything
//! that is wrong is found at once, and before anything runs.

mod effective;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use blackstart_core::catalog::{self, Catalog};
use blackstart_core::drill::{Drill, Fault};
use blackstart_core::policy::{Day, Diagnostic};
use blackstart_core::redact::Redaction;
use blackstart_core::report::Mode;
use blackstart_guard::{Attaching, Meant, Origin};

use crate::args::{self, Format};
use crate::catalog_files;
use crate::deployed;
use crate::diagnostics::Texts;
use crate::layers::{self, Files};
use crate::lock_file::LockFile;
use crate::notify::Telling;
use crate::plain::plain;
use crate::report_file::ReportFile;

pub(crate) use effective::{Asked, Effective, bare, compiled, resolved};

/// Where runs keep their state, unless `BLACKSTART_STATE` says otherwise.
const STATE: &str = "/var/lib/blackstart";

/// How long a drill may take, where nobody said: what hangs is to be found out, not waited for.
const DRILL_TIME: Duration = Duration::from_secs(15 * 60);

/// A run as it is to be.
#[derive(Debug)]
pub(crate) struct Order {
    /// The policy, if the host has guardrails or one was given.
    pub(crate) policy: Option<Effective>,
    /// Observe or enforce, all considered.
    pub(crate) mode: Mode,
    /// What the run deploys, all considered.
    pub(crate) service: Option<String>,
    /// What is taken for a secret in command lines.
    pub(crate) redaction: Redaction,
    /// As typed; the policy's default decides where it was not.
    pub(crate) leftover: Option<args::Leftover>,
    /// Gaps that do not stop an enforcing run.
    pub(crate) accept_gaps: Vec<String>,
    /// As typed; the policy's default decides where it was not.
    pub(crate) contain: Option<bool>,
    /// Unix sockets that are denied are put out of reach.
    pub(crate) hide_sockets: bool,
    /// Beside an orphan of the same service.
    pub(crate) concurrent: bool,
    /// Where the report goes.
    pub(crate) reports: Vec<ReportFile>,
    /// Summary, or report on standard output.
    pub(crate) format: Format,
    /// Neither lines nor summary.
    pub(crate) quiet: bool,
    /// What to run.
    pub(crate) command: Vec<OsString>,
    /// Why everything is to be let pass.
    pub(crate) break_glass: Option<String>,
    /// The services, if a catalog was named, or the host has one.
    pub(crate) catalog: Option<Arc<Catalog>>,
    /// What whoever typed this ought to know.
    pub(crate) remarks: Vec<String>,
    /// What whoever wrote the catalog ought to look at, where no policy was read with it.
    pub(crate) of_catalog: Option<Files>,
    /// Where the policy was read from.
    pub(crate) origin: Origin,
    /// The deployment's lockfile.
    pub(crate) lock: Option<LockFile>,
    /// The outage that is played for the run.
    pub(crate) drill: Option<Drill>,
    /// What does not hold up an emergency, and is told all the same.
    pub(crate) overlooked: Vec<Problem>,
    /// Who is told of it.
    pub(crate) telling: Telling,
    /// Where state is kept.
    pub(crate) state: PathBuf,
}

impl Order {
    /// Who owns what this is about, if the catalog says.
    pub(crate) fn owner(&self) -> Option<String> {
        let catalog = self.catalog.as_ref()?;
        let of_policy = || self.policy.as_ref()?.policy.service.clone();
        let service = catalog.find(&self.service.clone().or_else(of_policy)?)?;
        catalog.service(service).owner.clone()
    }
}

/// Something that is wrong with what was typed.
#[derive(Debug)]
pub(crate) enum Problem {
    /// In one line: what, why, what to do.
    Message(String),
    /// In a policy or a catalog.
    Policy {
        /// The texts, to show the places.
        texts: Texts,
        /// What is wrong.
        diagnostics: Vec<Diagnostic>,
    },
}

/// What is given without being typed.
#[derive(Debug)]
pub(crate) struct Surroundings {
    /// `BLACKSTART_STATE`.
    pub(crate) state: Option<OsString>,
    /// Where the host's guardrails are.
    pub(crate) guardrails: PathBuf,
    /// Every guardrail is final for this caller.
    pub(crate) all_final: bool,
    /// Today, in UTC.
    pub(crate) today: Day,
    /// Where the command will be started.
    pub(crate) directory: PathBuf,
    /// Where a catalog is that nobody typed.
    pub(crate) catalog: catalog_files::Places,
}

impl Surroundings {
    /// Those of this process, for a run: what a policy means to it depends on who calls.
    pub(crate) fn of_caller() -> Self {
        Self {
            all_final: !rustix::process::getuid().is_root(),
            ..Self::of_process()
        }
    }

    /// Those of this process, for whatever answers the same to everybody.
    pub(crate) fn of_process() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let seconds = now.map_or(0, |since| since.as_secs());
        Self {
            state: std::env::var_os("BLACKSTART_STATE"),
            guardrails: layers::guardrail_directory(
                std::env::var_os("BLACKSTART_GUARDRAILS").as_deref(),
            ),
            all_final: false,
            today: Day::of_unix(i64::try_from(seconds).unwrap_or(i64::MAX)),
            directory: std::env::current_dir().unwrap_or_default(),
            catalog: catalog_files::Places::of_process(),
        }
    }
}

/// Reads and checks everything that `typed` names.
pub(crate) fn run(mut typed: args::Run, around: &Surroundings) -> Result<Order, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut overlooked = Vec::new();
    let catalog_was_typed = typed.catalog.is_some();
    typed.catalog = typed.catalog.or_else(|| around.catalog.of_host());
    // An outage is played because somebody asked for it, and then the services are those of the checkout.
    let of_checkout = (typed.catalog.is_none() && !typed.down.is_empty())
        .then(|| around.catalog.here())
        .flatten();
    let mut remarks = Vec::new();
    if let Some(path) = &of_checkout {
        let from = around.directory.join(path);
        remarks.push(format!(
            "the services are those of {}, since no --catalog was typed and the host has none",
            from.display()
        ));
    }
    typed.catalog = typed.catalog.or(of_checkout);
    if typed.catalog.is_none() && !typed.down.is_empty() {
        let message = "`--down` takes from a catalog what the services provide, and there is none: name one with --catalog DIR, or have it in ./catalog, in /etc/blackstart/catalog or where BLACKSTART_CATALOG says";
        problems.push(Problem::Message(message.to_owned()));
    }
    let mut policy = effective(&typed, around).unwrap_or_else(|mut wrong| {
        problems.append(&mut wrong);
        None
    });
    if typed.break_glass.is_some() {
        overlooked.append(&mut problems);
    }
    // Of a catalog everything is used that can be read; that it is partial is told.
    let mut of_catalog = Files::default();
    let reading = typed
        .catalog
        .as_deref()
        .map(|path| of_catalog.catalog(path));
    // A policy was read with the same catalog, and has told what is wrong with it.
    let told = policy.is_some();
    let drill = drill(&typed);
    if let (Some(drill), Some(reading)) = (&drill, &reading)
        && let Err(mut wrong) = play(
            drill,
            reading,
            mode(typed.mode),
            &typed.service,
            &mut policy,
        )
    {
        if !told {
            problems.append(&mut wrong_with(std::mem::take(&mut of_catalog)));
        }
        problems.append(&mut wrong);
    }
    let limit = typed.time_limit;
    if let Some(time) = limit.or(drill.as_ref().map(|_| DRILL_TIME)) {
        let effective = policy.get_or_insert_with(|| bare(typed.service.clone(), mode(typed.mode)));
        let limits = &mut effective.policy.limits;
        // Of a drill's own limit a policy is no part; what was typed tightens what the policy says.
        limits.time = match (limits.time, limit) {
            (Some(known), Some(typed)) => Some(known.min(typed)),
            (known, _) => known.or(Some(time)),
        };
    }
    // What reads well may still be too much for the tables. That is found here, where its place can be shown, and before
    // it would be in the way of an emergency.
    if let Some(Err(problem)) = policy.as_ref().map(compiled) {
        problems.push(problem);
        policy = None;
    }
    let catalog = reading.map(|reading| Arc::new(reading.catalog));
    let state = kept(
        state_directory(around.state.as_deref()).map_err(Problem::Message),
        &mut problems,
    );
    let reports = typed
        .report
        .iter()
        .filter_map(|path| {
            kept(
                ReportFile::prepare(path).map_err(Problem::Message),
                &mut problems,
            )
        })
        .collect();
    let redaction = Redaction::new(&typed.redact).unwrap_or_else(|wrong| {
        let instead = match typed.break_glass {
            Some(_) => "; every argument is masked instead",
            None => "",
        };
        problems.push(Problem::Message(format!("--redact {wrong}{instead}")));
        Redaction::everything()
    });
    let telling = Telling::of(&typed.notify, &around.directory).unwrap_or_else(|wrong| {
        problems.extend(wrong.into_iter().map(Problem::Message));
        Telling::default()
    });
    let lock = kept(
        LockFile::of(&typed, &around.directory).map_err(Problem::Message),
        &mut problems,
    )
    .flatten();
    let mut state = state;
    if typed.break_glass.is_some() {
        overlooked.append(&mut problems);
        state = state.or_else(|| Some(PathBuf::from(STATE)));
    }
    let Some(state) = state.filter(|_| problems.is_empty()) else {
        return Err(problems);
    };

    let origin = Origin {
        policy: typed
            .policy
            .as_deref()
            .map(|path| around.directory.join(path)),
        catalog: typed
            .catalog
            .as_deref()
            .map(|path| around.directory.join(path)),
        mode: mode(typed.mode),
        service: typed.service.clone(),
        drill: drill.clone(),
        trees: deployed::trees(&typed.command, &around.directory),
        ..Origin::default()
    };
    let of_policy = policy.as_ref().map(|effective| &effective.policy);
    // What was typed has been weighed against the guardrails, where there is a policy.
    let mode = match of_policy {
        Some(policy) => policy.mode,
        None => mode(typed.mode).unwrap_or(Mode::Observe),
    };
    let service = match of_policy {
        Some(policy) => policy.service.clone(),
        None => typed.service,
    };
    // What runs already deploys nothing.
    if catalog_was_typed && service.is_none() && !typed.command.is_empty() {
        let message = "no circle can be found: say what this run deploys, with --service NAME";
        remarks.push(message.to_owned());
    }
    Ok(Order {
        catalog,
        remarks,
        lock,
        drill,
        of_catalog: Some(of_catalog).filter(|_| !told),
        policy,
        mode,
        service,
        // With a broken glass, what cannot be understood masks nothing, and is told.
        redaction,
        leftover: typed.leftover,
        accept_gaps: typed.accept_gap,
        contain: match (typed.contain, typed.no_contain) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        },
        hide_sockets: typed.hide_sockets,
        concurrent: typed.concurrent,
        reports,
        format: typed.format,
        quiet: typed.quiet,
        command: typed.command,
        break_glass: typed.break_glass,
        origin,
        overlooked,
        telling,
        state,
    })
}

/// The same for what is to be attached to: a run without a command of its own.
pub(crate) fn attach(
    typed: args::Attach,
    around: &Surroundings,
) -> Result<(Order, Attaching), Vec<Problem>> {
    let args::To {
        unit,
        container,
        cgroup,
        pid,
    } = typed.to;
    let to = unit
        .map(Meant::Unit)
        .or(container.map(Meant::Container))
        .or(cgroup.map(Meant::Cgroup))
        .or(pid.map(|pid| Meant::Pid {
            pid,
            whole_cgroup: typed.whole_cgroup,
        }));
    let Some(to) = to else {
        let message =
            "nothing is named to attach to; give one of --unit, --container, --cgroup and --pid";
        return Err(vec![Problem::Message(message.to_owned())]);
    };
    let attaching = Attaching {
        to,
        time: typed.time,
        cut: typed.cut,
    };
    let typed = args::Run {
        policy: typed.policy,
        catalog: typed.catalog,
        service: typed.service,
        mode: typed.mode,
        report: typed.report,
        notify: typed.notify,
        redact: typed.redact,
        format: typed.format,
        leftover: None,
        accept_gap: typed.accept_gap,
        contain: false,
        no_contain: false,
        hide_sockets: false,
        concurrent: true,
        break_glass: None,
        down: Vec::new(),
        lock: None,
        update_lock: false,
        fault: args::Fault::Refuse,
        time_limit: None,
        agent: None,
        quiet: typed.quiet,
        command: Vec::new(),
    };
    Ok((run(typed, around)?, attaching))
}

/// The drill that was typed.
fn drill(typed: &args::Run) -> Option<Drill> {
    let mut down = typed.down.clone();
    down.sort_unstable();
    down.dedup();
    (!down.is_empty()).then_some(Drill {
        down,
        fault: match typed.fault {
            args::Fault::Refuse => Fault::Refuse,
            args::Fault::Blackhole => Fault::Blackhole,
            args::Fault::Nxdomain => Fault::Nxdomain,
        },
    })
}

/// Put what the drill denies into the policy.
fn play(
    drill: &Drill,
    reading: &catalog::Reading,
    mode: Option<Mode>,
    service: &Option<String>,
    policy: &mut Option<Effective>,
) -> Result<(), Vec<Problem>> {
    if mode == Some(Mode::Observe) {
        let message = "a drill refuses what is down, and `--mode observe` refuses nothing; leave out one of the two";
        return Err(vec![Problem::Message(message.to_owned())]);
    }
    let denials = drill.denials(reading).map_err(|wrong| {
        let told = wrong.into_iter().map(|why| {
            Problem::Message(format!("cannot play the outage: {why}; {}", why.remedy()))
        });
        told.collect::<Vec<_>>()
    })?;
    let effective = policy.get_or_insert_with(|| bare(service.clone(), mode));
    effective.policy.rules.extend(denials.rules);
    for service in denials.silent {
        effective.remarks.push(format!(
            "{service} ought to be out of reach in this drill as well, and the catalog does not say what it provides; say so under its `provides:`"
        ));
    }
    Ok(())
}

/// What is wrong with files, as a problem of its own.
fn wrong_with(files: Files) -> Vec<Problem> {
    let mut problems: Vec<_> = files.messages.into_iter().map(Problem::Message).collect();
    if !files.diagnostics.is_empty() {
        problems.push(Problem::Policy {
            texts: files.texts,
            diagnostics: files.diagnostics,
        });
    }
    problems
}

fn mode(typed: Option<args::Mode>) -> Option<Mode> {
    Some(match typed? {
        args::Mode::Observe => Mode::Observe,
        args::Mode::Enforce => Mode::Enforce,
    })
}

fn kept<T>(result: Result<T, Problem>, problems: &mut Vec<Problem>) -> Option<T> {
    result.map_err(|problem| problems.push(problem)).ok()
}

/// The policy of a run; none without guardrails and without a policy of its own.
fn effective(typed: &args::Run, around: &Surroundings) -> Result<Option<Effective>, Vec<Problem>> {
    let mut files = Files::default();
    let mut layers = files.guardrails(&around.guardrails);
    layers.extend(typed.policy.as_deref().map(|path| files.layer(path, false)));
    if layers.is_empty() && files.sound() {
        return Ok(None);
    }
    let asked = Asked {
        layers,
        catalog: typed.catalog.as_deref(),
        mode: mode(typed.mode),
        service: typed.service.clone(),
    };
    let mut effective = resolved(files, asked, around)?;
    // Without a command nothing is deployed here.
    if !typed.command.is_empty() {
        let trees = deployed::trees(&typed.command, &around.directory);
        let lie_there = deployed::remarks(&effective.source.files, &around.directory, &trees);
        effective.remarks.extend(lie_there);
    }
    Ok(Some(effective))
}

/// The policy that takes over in a run: read from where the run's was, unless another place is named.
pub(crate) fn reload(
    typed: &args::Reload,
    origin: &Origin,
    around: &Surroundings,
) -> Result<Option<Effective>, Vec<Problem>> {
    let policy = typed.policy.as_deref().or(origin.policy.as_deref());
    let catalog = typed.catalog.as_deref().or(origin.catalog.as_deref());
    let mut files = Files::default();
    let mut layers = files.guardrails(&around.guardrails);
    let own = origin.guardrails.iter();
    layers.extend(own.map(|path| files.layer(path, true)));
    layers.extend(policy.map(|path| files.layer(path, false)));
    let mut policy = if layers.is_empty() && files.sound() {
        None
    } else {
        let asked = Asked {
            layers,
            catalog,
            mode: origin.mode,
            service: origin.service.clone(),
        };
        let mut effective = resolved(files, asked, around)?;
        let files = &effective.source.files;
        let lie_there = deployed::remarks(files, &around.directory, &origin.trees);
        effective.remarks.extend(lie_there);
        Some(effective)
    };
    // What is down in a drill stays down, whatever policy takes over.
    if let (Some(drill), Some(path)) = (&origin.drill, catalog) {
        let reading = Files::default().catalog(path);
        play(drill, &reading, origin.mode, &origin.service, &mut policy)?;
    }
    // Here and not by the run's supervisor, which has a command to look after.
    if let Some(effective) = &policy {
        compiled(effective).map_err(|problem| vec![problem])?;
    }
    Ok(policy)
}

/// From the value of `BLACKSTART_STATE`. A relative path would mean another place in each directory,
/// and the runs of one would not know those of the other.
pub(crate) fn state_directory(variable: Option<&OsStr>) -> Result<PathBuf, String> {
    match variable.filter(|value| !value.is_empty()) {
        None => Ok(PathBuf::from(STATE)),
        Some(value) => {
            let path = Path::new(value);
            if path.is_absolute() {
                Ok(path.to_owned())
            } else {
                Err(format!(
                    "BLACKSTART_STATE is {}, which is a relative path; give an absolute one",
                    path.display()
                ))
            }
        }
    }
}

/// The same, if nobody else may change what root finds there.
pub(crate) fn trusted_state(variable: Option<&OsStr>) -> Result<PathBuf, String> {
    let state = state_directory(variable)?;
    match blackstart_guard::is_trusted(&state) {
        Ok(()) => Ok(state),
        Err(error) => Err(plain(&format!("the state of runs is not used: {error}"))),
    }
}

#[cfg(test)]
mod tests;
