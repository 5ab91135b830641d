//! One fact about a host with what it means, what many make it good for, and both in words.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::plain::Paint;

/// Version of the JSON document's shape.
const SCHEMA_VERSION: u32 = 1;

/// The two facts of which a run needs at least one to see anything outside.
pub(super) const NAMES: &str = "names";
pub(super) const ADDRESSES: &str = "addresses";

/// How a fact bears on observe, or on enforce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Bearing {
    /// All is well.
    Whole,
    /// Something goes unseen or works less well.
    Gap,
    /// Not possible at all.
    Impossible,
}

/// One fact, and what it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// Short name of the fact.
    pub(crate) fact: &'static str,
    /// What it is here.
    pub(crate) is: String,
    /// The kernel did not tell.
    pub(crate) unknown: bool,
    /// For observe.
    pub(crate) observe: (Bearing, &'static str),
    /// For enforce.
    pub(crate) enforce: (Bearing, &'static str),
    /// What to do, if something is wrong.
    pub(crate) remedy: Option<String>,
}

/// What the host is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fitness {
    /// Enforce, and observe.
    Enforce,
    /// Only observe.
    Observe,
    /// A run would be unguarded.
    Unguarded,
}

impl Fitness {
    /// The best that no line forbids.
    pub(crate) fn of(lines: &[Line]) -> Self {
        let any = |holds: &dyn Fn(&Line) -> bool| lines.iter().any(holds);
        let blind = |fact| any(&|line| line.fact == fact && line.observe.0 != Bearing::Whole);
        if any(&|line| line.observe.0 == Bearing::Impossible) || (blind(NAMES) && blind(ADDRESSES))
        {
            Self::Unguarded
        } else if any(&|line| line.enforce.0 == Bearing::Impossible) {
            Self::Observe
        } else {
            Self::Enforce
        }
    }

    /// Exit code of `doctor`.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::Enforce => 0,
            Self::Observe => 1,
            Self::Unguarded => 2,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
            Self::Unguarded => "unguarded",
        }
    }

    fn sentence(self) -> &'static str {
        match self {
            Self::Enforce => "this host can enforce",
            Self::Observe => "this host can observe, and cannot enforce",
            Self::Unguarded => {
                "a run on this host would be unguarded: nothing could be seen or refused"
            }
        }
    }
}

impl Line {
    pub(super) fn good(fact: &'static str, is: impl Into<String>, means: &'static str) -> Self {
        let whole = (Bearing::Whole, means);
        Self {
            fact,
            is: is.into(),
            unknown: false,
            observe: whole,
            enforce: whole,
            remedy: None,
        }
    }

    /// Nothing is known to be wrong; a run will find out.
    pub(super) fn untold(fact: &'static str, why: impl Into<String>, means: &'static str) -> Self {
        Self {
            unknown: true,
            ..Self::good(fact, why, means)
        }
    }

    pub(super) fn bad(
        fact: &'static str,
        is: impl Into<String>,
        observe: (Bearing, &'static str),
        enforce: (Bearing, &'static str),
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            fact,
            is: is.into(),
            unknown: false,
            observe,
            enforce,
            remedy: Some(remedy.into()),
        }
    }

    /// Without this nothing can be loaded or attached at all.
    pub(super) fn fatal(
        fact: &'static str,
        is: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::bad(
            fact,
            is,
            (
                Bearing::Impossible,
                "the command runs unguarded, and the report says so",
            ),
            (Bearing::Impossible, "exit 125, nothing runs"),
            remedy,
        )
    }

    fn worst(&self) -> Bearing {
        self.observe.0.max(self.enforce.0)
    }
}

/// For people.
pub(crate) fn human(lines: &[Line], paint: Paint) -> String {
    let mut out = format!(
        "blackstart: {}\n\n",
        paint.bold(Fitness::of(lines).sentence())
    );
    let width = lines.iter().map(|line| line.fact.len()).max().unwrap_or(0);
    for line in lines {
        let mark = match (line.unknown, line.worst()) {
            (true, _) => "?   ".to_owned(),
            (false, Bearing::Whole) if line.remedy.is_none() => paint.good("ok  "),
            (false, Bearing::Whole | Bearing::Gap) => paint.doubtful("gap "),
            (false, Bearing::Impossible) => paint.bad("bad "),
        };
        let _ = write!(out, "{mark} {:width$}  {}", line.fact, line.is);
        if line.remedy.is_none() {
            let _ = writeln!(out, " ({})", line.observe.1);
            continue;
        }
        out.push('\n');
        let means = match (line.observe.1, line.enforce.1) {
            (observe, enforce) if observe == enforce => vec![("both:   ", observe)],
            (observe, enforce) => vec![("observe:", observe), ("enforce:", enforce)],
        };
        for (word, text) in means {
            let _ = writeln!(out, "     {:width$}    {word} {text}", "");
        }
        if let Some(remedy) = &line.remedy {
            let _ = writeln!(out, "     {:width$}    to do:   {remedy}", "");
        }
    }
    out
}

/// For programs.
pub(crate) fn document(lines: &[Line]) -> Value {
    let bearing = |(bearing, means): (Bearing, &str)| {
        let word = match bearing {
            Bearing::Whole => "whole",
            Bearing::Gap => "gap",
            Bearing::Impossible => "impossible",
        };
        json!({ "effect": word, "means": means })
    };
    let facts: Vec<_> = lines
        .iter()
        .map(|line| {
            json!({
                "fact": line.fact,
                "is": line.is,
                "known": !line.unknown,
                "observe": bearing(line.observe),
                "enforce": bearing(line.enforce),
                "remedy": line.remedy,
            })
        })
        .collect();
    json!({ "schema_version": SCHEMA_VERSION, "fitness": Fitness::of(lines).word(), "facts": facts })
}
