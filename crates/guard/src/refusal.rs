//! Why nothing ran.

use std::fmt;

use crate::plan::Need;

/// The class of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// What was asked for makes no sense.
    Request,
    /// Enforcing needs something that this host has not.
    Unmet(Need),
    /// An earlier run of the same service still lives without its supervisor.
    Orphan,
    /// The command does not exist.
    NotFound,
    /// The command cannot be executed.
    NotExecutable,
    /// A signal came before the command had started.
    Signal(i32),
    /// The agent went away before the command had started; another may be asked.
    Agent,
    /// The system refused something that no run can do without.
    System,
}

/// Nothing ran: what failed, why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The class.
    pub cause: Cause,
    /// What failed; lower-case, no full stop.
    pub what: String,
    /// Why.
    pub why: String,
    /// What to do; may be empty where there is nothing to say.
    pub remedy: String,
}

impl Refusal {
    /// The exit code for it.
    pub fn exit_code(&self) -> u8 {
        match self.cause {
            Cause::NotFound => 127,
            Cause::NotExecutable => 126,
            Cause::Signal(signal) => u8::try_from(128 + signal).unwrap_or(125),
            Cause::Request | Cause::Unmet(_) | Cause::Orphan | Cause::Agent | Cause::System => 125,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        for part in [&self.why, &self.remedy] {
            if !part.is_empty() {
                write!(f, "; {part}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Refusal {}
