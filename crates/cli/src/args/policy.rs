//! `blackstart policy`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::amounts::age;
use super::{Format, Protocol};

/// Work with policies.
#[derive(Debug, Subcommand)]
pub(crate) enum Policy {
    Check(Check),
    Explain(Explain),
    Test(Test),
    Learn(Learn),
    Backtest(Backtest),
    Diff(PolicyDiff),
    Promote(Promote),
    /// Print the JSON Schema of a policy file, by which an editor completes and checks one.
    Schema,
}

/// Check policies, and show everything that is wrong with them.
///
/// Each is read as `run --policy` would read it on this host: after the host's guardrails, and with all
/// that it includes. A file in the guardrails' directory is read as a guardrail. Nothing is run, and no
/// privilege is needed.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_CHECK)]
pub(crate) struct Check {
    /// How to show the result (on standard output)
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    pub(crate) format: Format,

    /// Take from this catalog what `protect:` and `service:` stand for
    ///
    /// Where it is not given: where BLACKSTART_CATALOG says, or in /etc/blackstart/catalog, if that is there.
    #[arg(long, value_name = "DIR")]
    pub(crate) catalog: Option<PathBuf>,

    /// Read them as guardrails, wherever they lie
    #[arg(long)]
    pub(crate) guardrail: bool,

    /// The policies
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
}

const AFTER_CHECK: &str = "\
Examples:
    blackstart policy check deploy.yaml
    blackstart policy check --catalog catalog --format json policies/*.yaml

Exit codes:
  0    all are valid, perhaps with warnings
  1    at least one is not";

/// Say what would become of an attempt, by which rule, and what that rule goes before.
///
/// The policy is read as `run --policy` would read it on this host: after the host's guardrails, and with
/// all that it includes. Nothing is run or looked up, and no privilege is needed: an address counts only
/// if it is given. Loopback is known; the host's other addresses and its resolvers are not.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_EXPLAIN)]
pub(crate) struct Explain {
    /// Judge by this policy
    ///
    /// Without one, by the host's guardrails alone. One of these is not judged by twice.
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,

    /// Read the policy as a guardrail, wherever it lies
    #[arg(long, requires = "policy")]
    pub(crate) guardrail: bool,

    /// Judge as for a caller without root, for whom every rule of a guardrail is final
    #[arg(long)]
    pub(crate) as_user: bool,

    /// Take from this catalog what `protect:` and `service:` stand for
    ///
    /// Where it is not given: where BLACKSTART_CATALOG says, or in /etc/blackstart/catalog, if that is there.
    #[arg(long, value_name = "DIR")]
    pub(crate) catalog: Option<PathBuf>,

    /// The address that the name leads to
    #[arg(long, value_name = "IP")]
    pub(crate) address: Option<IpAddr>,

    /// What the process executes
    ///
    /// As it is given to exec: rules about a path want the whole path.
    #[arg(long, value_name = "PATH", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) process: Option<String>,

    /// What a process executes that it descends from; may be given more than once
    ///
    /// Rules about an `ancestor:` hold for all that such a process starts, and for itself.
    #[arg(long, value_name = "PATH", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) ancestor: Vec<String>,

    /// With which protocol; `tcp` if not given
    #[arg(long, value_name = "PROTOCOL")]
    pub(crate) protocol: Option<Protocol>,

    /// How to show the result (on standard output)
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    pub(crate) format: Format,

    /// A name or an address, with or without `:PORT`, or `unix:PATH`
    ///
    /// Of a name without a port only the lookup is judged, unless `--address` is given; an address without
    /// a port is judged by rules about all ports. An IPv6 address with a port is written `[::1]:443`.
    #[arg(value_name = "DEST")]
    pub(crate) destination: String,
}

const AFTER_EXPLAIN: &str = "\
Examples:
    blackstart policy explain --policy deploy.yaml api.github.com:443
    blackstart policy explain --policy deploy.yaml --address 10.20.3.4 --process /usr/bin/terraform db.internal:5432
    blackstart policy explain --policy deploy.yaml unix:/run/docker.sock

Exit codes:
  0    whatever the verdict is
  1    the policy is not valid
  125  typed wrongly";

/// Look whether policies do what the cases under their `tests:` expect.
///
/// Each file is judged by as a run with it would be, with all that it includes and with the waivers that
/// are in force today, but without the host's guardrails: the result is the same on every host. Nothing is
/// run, and no privilege is needed.
///
/// A file in the guardrails' directory is read as a guardrail, whose rules may be `final`; so are all with
/// `--guardrail`. Guardrails are read as for root, for whom they are not all final.
///
/// A case that expects `deny` is met by `would_deny` while the whole policy says `mode: observe`. The tests
/// of included files are not run; name these files, too.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_TEST)]
pub(crate) struct Test {
    /// How to show the result (on standard output)
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    pub(crate) format: Format,

    /// Take from this catalog what `protect:` and `service:` stand for
    ///
    /// Where it is not given: where BLACKSTART_CATALOG says, or in /etc/blackstart/catalog, if that is there.
    #[arg(long, value_name = "DIR")]
    pub(crate) catalog: Option<PathBuf>,

    /// Apply the host's guardrails, as a run on this host would
    #[arg(long)]
    pub(crate) with_guardrails: bool,

    /// Read them as guardrails, wherever they lie
    #[arg(long)]
    pub(crate) guardrail: bool,

    /// The policies
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
}

const AFTER_TEST: &str = "\
Examples:
    blackstart policy test deploy.yaml
    blackstart policy test --catalog catalog policies/*.yaml

Exit codes:
  0    every case came out as expected
  1    at least one did not, or a file is not valid";

/// Make a policy from what the runs of a service did.
///
/// It is an allow-list (`default: deny`) of the names that runs asked for, on the ports that they reached;
/// addresses stand in it only where no name led to them. Each rule has its evidence in a comment. What a
/// policy denied, or a waiver or a broken glass let pass, is left out and told. A name stands for itself,
/// unless runs keep bringing new ones below it. Runs of which not everything is known are told at the top.
/// The policy goes to standard output, and observes until it says `mode: enforce`.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_LEARN)]
pub(crate) struct Learn {
    /// The service whose runs are looked at
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) service: String,

    /// Only runs that began within this time, such as `12h`, `30d` or `8w`
    #[arg(long, value_name = "TIME", value_parser = age)]
    pub(crate) since: Option<Duration>,

    /// From what was attached to (`blackstart attach --service NAME`), instead of from its deployments
    #[arg(long)]
    pub(crate) attached: bool,

    /// How to show the result (on standard output)
    ///
    /// `human` is the policy; `json` has it as a text, with its rules and their evidence.
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    pub(crate) format: Format,
}

const AFTER_LEARN: &str = "\
Examples:
    blackstart policy learn --service mysql --since 30d >mysql.yaml
    blackstart policy backtest mysql.yaml

Exit codes:
  0    done
  1    the history has no such run, or done with a report that could not be taken into it
  125  typed wrongly, or the history could not be read";

/// Which runs of the past a policy is held against.
#[derive(Debug, Args)]
pub(crate) struct Against {
    /// Only runs that deployed this
    ///
    /// If not given: what the policy says under `service:`, and all runs where it says nothing.
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) service: Option<String>,

    /// Only runs that began within this time, such as `12h`, `30d` or `8w`
    #[arg(long, value_name = "TIME", value_parser = age)]
    pub(crate) since: Option<Duration>,

    /// Take from this catalog what `protect:` and `service:` stand for
    ///
    /// Where it is not given: where BLACKSTART_CATALOG says, or in /etc/blackstart/catalog, if that is there.
    #[arg(long, value_name = "DIR")]
    pub(crate) catalog: Option<PathBuf>,

    /// Apply the host's guardrails, as a run on this host would
    #[arg(long)]
    pub(crate) with_guardrails: bool,

    /// Against what was attached to (`blackstart attach --service NAME`), instead of against deployments
    #[arg(long)]
    pub(crate) attached: bool,
}

/// Say what a policy would have refused of what earlier runs did.
///
/// Every lookup, connection and contact of the history's runs is judged again, with the leases and the
/// processes that they had. The policy is taken as if it said `mode: enforce`; single rules that say
/// `mode: observe` still refuse nothing, and are told apart. A connection that follows a refused lookup is not
/// counted: it would not have come to pass. Waivers hold as of today.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_BACKTEST)]
pub(crate) struct Backtest {
    #[command(flatten)]
    pub(crate) against: Against,

    /// How to show the result (on standard output)
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    pub(crate) format: Format,

    /// The policy
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
}

const AFTER_BACKTEST: &str = "\
Examples:
    blackstart policy backtest deploy.yaml --since 90d
    blackstart policy backtest --service mysql --format json deploy.yaml | jq .refusals

Exit codes:
  0    it would have refused nothing
  1    it would have, or it is not valid, or there is no run to hold it against, or a report could not be taken into
       the history
  125  typed wrongly, or the history could not be read";

/// Compare two policies by what they make of earlier runs, not by their texts.
///
/// Both are held against the history's runs as `policy backtest` does; what comes out otherwise is told.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_POLICY_DIFF)]
pub(crate) struct PolicyDiff {
    #[command(flatten)]
    pub(crate) against: Against,

    /// How to show the result (on standard output)
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    pub(crate) format: Format,

    /// The policy before
    #[arg(value_name = "OLD")]
    pub(crate) old: PathBuf,

    /// The policy after
    #[arg(value_name = "NEW")]
    pub(crate) new: PathBuf,
}

const AFTER_POLICY_DIFF: &str = "\
Examples:
    blackstart policy diff deploy.yaml deploy.new.yaml --since 90d

Exit codes:
  0    nothing that runs did comes out otherwise
  1    something does, or one of them is not valid, or there is no run to hold them against, or a report could not be
       taken into the history
  125  typed wrongly, or the history could not be read";

/// Say which rules may go one rung higher, because the past was quiet about them.
///
/// The rungs of a rule that denies: it observes; it refuses (`mode: enforce`); it refuses, and fails the run (`reaction: fail`). Each
/// rule is held against the history's runs as `policy backtest` does. Proposed is one rung for each rule that would have refused nothing
/// for a time, if runs were seen as a whole before and within that time; runs of which not everything is known, and those with
/// an outage played for them, are no proof of quiet. The proof is shown for each rule, and behind it the change as a patch that
/// `git apply` takes.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_PROMOTE)]
pub(crate) struct Promote {
    #[command(flatten)]
    pub(crate) against: Against,

    /// For how long a rule must have been quiet, such as `7d`
    #[arg(long, value_name = "TIME", default_value = "14d", value_parser = age)]
    pub(crate) quiet_for: Duration,

    /// Change the file, instead of showing a patch
    #[arg(long)]
    pub(crate) write: bool,

    /// How to show the result (on standard output)
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    pub(crate) format: Format,

    /// The policy
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
}

const AFTER_PROMOTE: &str = "\
Examples:
    blackstart policy promote deploy.yaml --since 90d
    blackstart policy promote deploy.yaml --quiet-for 30d --write

Exit codes:
  0    done, whether or not a rule may go higher
  1    it is not valid, or there is no run to hold it against, or a report could not be taken into the history
  125  typed wrongly, or the history could not be read, or the file could not be written";
