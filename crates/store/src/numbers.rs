//! The numbers by which tables have what has words in a report. They are part of the schema.

use blackstart_core::report::{Attribution, Guarded, Mode, Verdict};

use crate::Error;

pub(crate) fn mode_number(mode: Mode) -> i64 {
    match mode {
        Mode::Observe => 0,
        Mode::Enforce => 1,
    }
}

pub(crate) fn guarded_number(guarded: Guarded) -> i64 {
    match guarded {
        Guarded::Yes => 0,
        Guarded::Partly => 1,
        Guarded::No => 2,
    }
}

const VERDICTS: [Verdict; 5] = [
    Verdict::Allow,
    Verdict::Deny,
    Verdict::WouldDeny,
    Verdict::Waived,
    Verdict::BreakGlass,
];

const ATTRIBUTIONS: [Attribution; 5] = [
    Attribution::Exact,
    Attribution::Inherited,
    Attribution::Ambiguous,
    Attribution::Unnamed,
    Attribution::Unknown,
];

pub(crate) fn verdict_number(verdict: Verdict) -> i64 {
    match verdict {
        Verdict::Allow => 0,
        Verdict::Deny => 1,
        Verdict::WouldDeny => 2,
        Verdict::Waived => 3,
        Verdict::BreakGlass => 4,
    }
}

pub(crate) fn attribution_number(attribution: Attribution) -> i64 {
    match attribution {
        Attribution::Exact => 0,
        Attribution::Inherited => 1,
        Attribution::Ambiguous => 2,
        Attribution::Unnamed => 3,
        Attribution::Unknown => 4,
    }
}

pub(crate) fn verdict(number: i64) -> Result<Verdict, Error> {
    let found = usize::try_from(number).ok().and_then(|at| VERDICTS.get(at));
    found.copied().ok_or_else(|| Error::damaged("a verdict"))
}

pub(crate) fn attribution(number: i64) -> Result<Attribution, Error> {
    let found = usize::try_from(number)
        .ok()
        .and_then(|at| ATTRIBUTIONS.get(at));
    found
        .copied()
        .ok_or_else(|| Error::damaged("an attribution"))
}

pub(crate) fn mode(number: i64) -> Mode {
    if number == mode_number(Mode::Enforce) {
        Mode::Enforce
    } else {
        Mode::Observe
    }
}

pub(crate) fn guarded(number: i64) -> Guarded {
    match number {
        0 => Guarded::Yes,
        1 => Guarded::Partly,
        _ => Guarded::No,
    }
}

/// A subject of a report: 0 is none.
pub(crate) fn subject_number(subject: Option<u64>) -> i64 {
    subject.map_or(0, |subject| amount_number(subject).saturating_add(1))
}

pub(crate) fn subject(number: i64) -> Option<u64> {
    u64::try_from(number.checked_sub(1)?).ok()
}

/// SQLite's integers are signed.
pub(crate) fn amount_number(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

pub(crate) fn amount(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    #[test]
    fn numbers_stand_for_what_they_came_from() {
        for it in VERDICTS {
            assert_eq!(verdict(verdict_number(it)).unwrap(), it);
        }
        for it in ATTRIBUTIONS {
            assert_eq!(attribution(attribution_number(it)).unwrap(), it);
        }
        assert_eq!(verdict(5).unwrap_err().kind(), Kind::Foreign);
    }
}
