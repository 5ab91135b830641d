//! Telling others.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::amounts::time;

/// Who is told of a run.
#[derive(Debug, Default, Args)]
pub(crate) struct NotifyTyped {
    /// Tell this target of the run when it has ended; may be given more than once
    ///
    /// `file:PATH` adds JSON lines to a file, or writes them into a named pipe; `journald` enters them into the journal;
    /// `metrics:PATH.prom` keeps a file for Prometheus' node exporter; `otlp:URL` sends a trace and log records to a collector of
    /// OpenTelemetry (OTLP over HTTP, as JSON). These get every run and all its findings.
    /// `webhook:URL`, `slack:URL` and `alertmanager:URL` get what they were not told in the last seven days, and
    /// nothing if there is nothing new; the last two no mere remarks. `@FILE` in place of a URL stands for the one that the file has.
    ///
    /// `owner=NAME TARGET` is for the findings of that owner alone (several with commas between them). `webhook`, `slack` and
    /// `alertmanager` without it get what has none of these that is its owner's; the others get everything.
    ///
    /// The run's end waits for none of them, and its exit code stays the command's. Alerts are sent afterwards by a process of
    /// its own; what cannot be sent is kept, and tried again by the next command. The targets in
    /// /etc/blackstart/notify (or where BLACKSTART_NOTIFY says) are told as well, unless one of those typed is `none`.
    #[arg(long, value_name = "TARGET", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) notify: Vec<String>,

    /// Repeat alerts that were sent before
    #[arg(long)]
    pub(crate) notify_all: bool,

    /// While the run goes on, tell what is new this often
    ///
    /// Of what lasts, nobody waits for the end to learn: findings are told when they are met, each once, and the
    /// history has the run up to then, within the first such time and each hour from there on. Sums, and the line
    /// or trace of the run itself, follow when it has ended.
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "1m")]
    pub(crate) notify_every: Duration,
}

/// Work with what others are told.
#[derive(Debug, Subcommand)]
pub(crate) enum Notify {
    Flush(Flush),
    /// What a run starts to be told of while it goes on
    #[command(hide = true)]
    Meanwhile,
}

/// Send the alerts that wait, and show those that still do.
///
/// Each is tried once, whenever it is due. What waits is in the directory of the runs' state, for a week at most.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_FLUSH)]
pub(crate) struct Flush {
    /// Nobody looks on: try what is due, for half a minute, and say nothing
    #[arg(long)]
    pub(crate) unattended: bool,

    /// What a run starts to have files written: takes orders, and says what comes of them
    #[arg(long, hide = true, conflicts_with = "unattended")]
    pub(crate) local: bool,

    /// Before that, let go of what was inherited: whoever started this is still to hand it on
    #[arg(long, hide = true, requires = "local")]
    pub(crate) shed: bool,
}

const AFTER_FLUSH: &str = "\
Examples:
    blackstart notify flush

Exit codes:
  0    nothing waits any more
  1    something does: see what is said of it
  125  typed wrongly, or what waits could not be looked at";
