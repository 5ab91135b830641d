//! Exit codes of `blackstart run` that are Blackstart's and not the command's.

/// The command succeeded, and a finding gates the run.
pub const GATED: i32 = 120;
/// A time limit ended the command.
pub const TIME_LIMIT: i32 = 124;
/// Blackstart failed, and nothing ran.
pub const NOTHING_RAN: i32 = 125;
