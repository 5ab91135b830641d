//! What was typed after `attach`.

use std::path::PathBuf;
use std::time::Duration;

use blackstart_guard::Need;
use clap::Args;
use clap::builder::PossibleValuesParser;

use super::amounts::time;
use super::{Format, Mode, NotifyTyped};

/// Guard what runs already: a unit of systemd, a container, a cgroup, a process.
///
/// Everything that is in its cgroup, and all that comes into it, is seen as in a run, and refused by an
/// enforcing policy. It is not touched otherwise: nothing is moved, limited, signalled or ended, and at
/// the end the programs are taken off again. That is when you press ^C or send SIGTERM, when the time of
/// `--time` is over, or when the cgroup is gone.
///
/// Connections that were open before are listed in the report and left, unless `--cut` is given. Processes
/// that were there before are told as /proc tells of them.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_ATTACH)]
pub(crate) struct Attach {
    #[command(flatten)]
    pub(crate) to: To,

    /// Though other processes than that of `--pid` are in the cgroup
    ///
    /// What is attached to a cgroup holds for all that are in it.
    #[arg(long, requires = "pid")]
    pub(crate) whole_cgroup: bool,

    /// End after this time, such as `10m` or `1h30m`
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) time: Option<Duration>,

    /// End connections at once that are older than the guard, if the policy refuses their address
    ///
    /// Whoever reads from one, or writes to it, gets an error (ECONNABORTED). By which name it was made is not
    /// known, so that only rules about addresses, and names of /etc/hosts, decide; and the default, where it
    /// denies. Needs a policy that enforces.
    #[arg(long)]
    pub(crate) cut: bool,

    /// Judge by this policy
    ///
    /// It is the last of the layers: the host's guardrails come before it. Its limits are not applied. Without
    /// a policy and without guardrails, everything is observed and nothing refused.
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,

    /// Take from this catalog what `protect:` and `service:` stand for, and who owns the service
    #[arg(long, value_name = "DIR")]
    pub(crate) catalog: Option<PathBuf>,

    /// Name the service that runs there
    ///
    /// What it reaches for is what this service needs to run: no deployment, and no circle by itself.
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) service: Option<String>,

    /// Observe or enforce, whatever the policy says
    ///
    /// As with `blackstart run`.
    #[arg(long, value_name = "MODE")]
    pub(crate) mode: Option<Mode>,

    /// Write the report here at the end; may be given more than once
    ///
    /// The name's ending says how: `.json` is for programs, `.html` a page for people.
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Vec<PathBuf>,

    #[command(flatten)]
    pub(crate) notify: NotifyTyped,

    /// Mask what this regular expression matches in command lines; may be given more than once
    #[arg(long, value_name = "PATTERN")]
    pub(crate) redact: Vec<String>,

    /// How to show the result
    ///
    /// `human` prints the summary on standard error, `json` the report on standard output.
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    pub(crate) format: Format,

    /// Enforce although this gap is open; may be given more than once
    #[arg(long, value_name = "KIND", value_parser = PossibleValuesParser::new(Need::ALL.map(Need::kind)))]
    pub(crate) accept_gap: Vec<String>,

    /// No line for each new kind of refusal meanwhile
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// What is meant.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct To {
    /// A unit of systemd, such as `mysql.service`
    ///
    /// Without an ending it is a service, as with systemctl.
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) unit: Option<String>,

    /// A container of docker, podman, CRI-O or containerd: its id, the beginning of one, or its name
    ///
    /// No daemon is asked: the id stands in the cgroup's name. Names are found where docker and podman keep them,
    /// if these files can be read.
    #[arg(long, value_name = "CONTAINER", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) container: Option<String>,

    /// A cgroup: a directory of cgroup2, or a path as /proc/PID/cgroup has it
    #[arg(long, value_name = "PATH")]
    pub(crate) cgroup: Option<PathBuf>,

    /// The cgroup of this process, if it has that for itself
    #[arg(long, value_name = "PID")]
    pub(crate) pid: Option<u32>,
}

const AFTER_ATTACH: &str = "\
Examples:
  What does the database need while it runs?
    blackstart attach --unit mysql.service --service mysql --time 10m --report needs.json

  Keep a container away from an address from now on, and end what is open there:
    blackstart attach --container web --policy no-github.yaml --mode enforce --cut

Exit codes:
  0      ended as asked for
  120    a rule with `reaction: fail` refused something
  125    nothing was attached";
