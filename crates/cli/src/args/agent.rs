//! What was typed after `agent`, and of `run` what is about it.

use std::path::PathBuf;
use std::time::Duration;

use blackstart_core::policy::UnitPattern;
use blackstart_guard::Need;
use clap::Args;
use clap::builder::PossibleValuesParser;

use super::amounts::time;

/// Guard commands of callers that have no root, as a service.
///
/// `blackstart run`, typed by somebody in the permitted group, asks the agent for a guard. The command is the caller's
/// own process, with the caller's rights, terminal and environment; the agent makes the cgroup, loads the
/// programs and keeps the record, and starts nothing. Guardrails of this host are final for whoever is not root: no
/// policy or waiver of a caller goes before them.
///
/// When the agent ends, or is replaced, commands that it guards stay guarded; the next agent looks after them. Units
/// (`--guard`) stay guarded where it is replaced, and are let go of where it is stopped.
///
/// With `--guard`, units of systemd are guarded from each start to its end as well, as by `blackstart attach`.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_AGENT)]
pub(crate) struct Agent {
    /// Listen here
    #[arg(
        long,
        value_name = "SOCKET",
        default_value = "/run/blackstart/agent.sock"
    )]
    pub(crate) socket: PathBuf,

    /// Permit whoever is in this group: its name or number; without it, root alone
    #[arg(long, value_name = "GROUP")]
    pub(crate) group: Option<String>,

    /// Guard every service of systemd with such a name, from its start to its end; may be given more than once
    ///
    /// `*` stands for any characters, `?` for one. After a `=` may stand the file of a policy, by which the units of this
    /// rule are judged, below the guardrails; it is read anew at each start, and if that fails the one before
    /// goes on. Without one the guardrails judge, or everything is observed. Of several rules the first that
    /// matches counts. Units that run already are attached to as they are. What is guarded so has reports like
    /// those of `blackstart attach`, in the history, and the host's targets hear of it.
    ///
    /// Units that hold the agent, a run, or all that a user does (`user@.service`) are left alone, and so are those
    /// that a `blackstart attach` guards, as long as it does. At most 256 are guarded at a time. When the
    /// agent is stopped, it lets go of them. If it is replaced (`systemctl restart` of its unit, an upgrade that does that, or
    /// SIGUSR1), or killed, they stay guarded until the next agent guards them anew.
    #[arg(long, value_name = "PATTERN[=FILE]", value_parser = unit_rule)]
    pub(crate) guard: Vec<UnitRule>,

    /// Keep so many guards loaded for the next calls, and as many for units
    ///
    /// Loading is nearly all that a start takes. Each takes a few megabytes of the kernel's memory.
    #[arg(long, value_name = "N", default_value = "2", value_parser = clap::value_parser!(u8).range(0..=64))]
    pub(crate) spares: u8,

    /// Hold this policy as a guardrail, besides those of the host; may be given more than once
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Vec<PathBuf>,

    /// Take from this catalog what `protect:` and `service:` stand for, and find circles with it
    ///
    /// No caller's catalog is taken: by it a guardrail could be made to mean something else. Where none is given, it is
    /// where BLACKSTART_CATALOG says, or in /etc/blackstart/catalog, if that is there.
    #[arg(long, value_name = "DIR")]
    pub(crate) catalog: Option<PathBuf>,

    /// Keep this file for Prometheus' node exporter, about the agent itself
    ///
    /// Guards, those that are loaded ahead, runs that began, are over or were left by an earlier agent, calls that were refused, and
    /// what others are still to be told. Its name ends in `.prom`.
    #[arg(long, value_name = "FILE", value_parser = prom)]
    pub(crate) metrics: Option<PathBuf>,

    /// While a guard lasts, tell the host's targets what is new this often
    ///
    /// As with `run --notify-every`: findings are told when they are met, each once, and the history has what there is
    /// within the first such time and each hour from there on.
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "1m")]
    pub(crate) notify_every: Duration,

    /// Let callers enforce although this gap is open; may be given more than once
    ///
    /// Where guardrails enforce, callers accept no gaps but these.
    #[arg(long, value_name = "KIND", value_parser = PossibleValuesParser::new(Need::ALL.map(Need::kind)))]
    pub(crate) accept_gap: Vec<String>,
}

fn prom(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if !path.is_absolute() {
        return Err("write an absolute path: it is written by another process".to_owned());
    }
    match path.extension().is_some_and(|ending| ending == "prom") {
        true => Ok(path),
        false => Err("the node exporter only collects files that end in `.prom`".to_owned()),
    }
}

/// What `--guard` says.
#[derive(Debug, Clone)]
pub(crate) struct UnitRule {
    /// Which units.
    pub(crate) pattern: UnitPattern,
    /// By what they are judged.
    pub(crate) policy: Option<PathBuf>,
}

/// No name of a unit has a `=`.
fn unit_rule(text: &str) -> Result<UnitRule, String> {
    let (pattern, file) = match text.split_once('=') {
        Some((_, "")) => return Err("no file is named behind the `=`".to_owned()),
        Some((pattern, file)) => (pattern, Some(file)),
        None => (text, None),
    };
    let pattern = UnitPattern::parse(pattern)
        .map_err(|wrong| format!("names of services are taken, {}; {}", wrong.why, wrong.help))?;
    // What such a unit holds is said in units.rs of the guard.
    if pattern.as_str().starts_with("user@") {
        return Err(
            "all that a user does is in its user@.service; name single services".to_owned(),
        );
    }
    Ok(UnitRule {
        pattern,
        policy: file.map(PathBuf::from),
    })
}

const AFTER_AGENT: &str = "\
Examples:
    blackstart agent --group deploy
    blackstart agent --guard 'deploy-*.service=/etc/blackstart/deploy.yaml'
    systemctl enable --now blackstart-agent    # with the unit in dist/systemd

Exit codes:
  0      somebody ended it (SIGTERM, SIGINT), or had it leave everything to the next one (SIGUSR1)
  125    it cannot listen, or was typed wrongly";
