//! A bar, what was measured against it, and how both are shown.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::machine;
use super::pairs::{ENOUGH, Estimate, Pairs};

/// What a figure has to keep to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
    /// This, exactly.
    Exactly(f64),
}

impl Bound {
    fn holds(self, figure: f64) -> bool {
        match self {
            Self::AtMost(limit) => figure <= limit,
            Self::AtLeast(limit) => figure >= limit,
            Self::Exactly(wanted) => (figure - wanted).abs() < f64::EPSILON,
        }
    }
}

/// One line of the table.
#[derive(Debug, Clone)]
pub struct Bar {
    what: String,
    unit: &'static str,
    bound: Bound,
    figure: Option<f64>,
    /// What has to meet the bound, where the figure varies; which bootstrap bound it is follows from `bound`.
    bootstrap: Option<f64>,
    deterministic: bool,
    /// It was measured as often as a figure that varies has to be.
    enough: bool,
    note: String,
    raw: Value,
}

impl Bar {
    /// A figure that is the same each time: it gates.
    pub fn deterministic(
        what: impl Into<String>,
        unit: &'static str,
        bound: Bound,
        figure: f64,
    ) -> Self {
        Self {
            what: what.into(),
            unit,
            bound,
            figure: Some(figure),
            bootstrap: None,
            deterministic: true,
            enough: true,
            note: String::new(),
            raw: Value::Null,
        }
    }

    /// What the guard adds, in wall-clock time of pairs.
    pub(super) fn added(
        what: impl Into<String>,
        unit: &'static str,
        bound: Bound,
        pairs: &Pairs,
    ) -> Self {
        Self::paired(what, unit, bound, pairs.difference(), pairs)
    }

    /// By what the guard multiplies a wall-clock figure of pairs.
    pub(super) fn factor(what: impl Into<String>, bound: Bound, pairs: &Pairs) -> Self {
        Self::paired(what, "", bound, pairs.ratio(), pairs)
    }

    /// A wall-clock figure from pairs.
    fn paired(
        what: impl Into<String>,
        unit: &'static str,
        bound: Bound,
        estimate: Estimate,
        pairs: &Pairs,
    ) -> Self {
        let (guarded, bare) = pairs.medians();
        let mut note = format!("{guarded:.1} guarded, {bare:.1} bare");
        if pairs.0.len() < ENOUGH {
            note += &format!("; only {} pairs", pairs.0.len());
        }
        Self {
            bootstrap: Some(match bound {
                Bound::AtLeast(_) => estimate.lower,
                Bound::AtMost(_) | Bound::Exactly(_) => estimate.upper,
            }),
            deterministic: false,
            enough: pairs.0.len() >= ENOUGH,
            note,
            raw: json!({ "pairs": pairs.0, "order": "guarded, bare" }),
            ..Self::deterministic(what, unit, bound, estimate.median)
        }
    }

    /// A wall-clock figure of one run, without a bare one beside it: it does not gate.
    pub(super) fn once(
        what: impl Into<String>,
        unit: &'static str,
        bound: Bound,
        figure: f64,
    ) -> Self {
        Self {
            deterministic: false,
            ..Self::deterministic(what, unit, bound, figure)
        }
    }

    /// A bar that could not be measured here, and why.
    pub fn skipped(
        what: impl Into<String>,
        unit: &'static str,
        bound: Bound,
        why: impl Into<String>,
    ) -> Self {
        Self {
            figure: None,
            deterministic: false,
            note: why.into(),
            ..Self::deterministic(what, unit, bound, 0.0)
        }
    }

    /// Say more about it.
    #[must_use]
    pub fn note(mut self, note: impl AsRef<str>) -> Self {
        if !self.note.is_empty() && !note.as_ref().is_empty() {
            self.note += "; ";
        }
        self.note += note.as_ref();
        self
    }

    /// Keep what it was computed from.
    #[must_use]
    pub fn raw(mut self, raw: Value) -> Self {
        self.raw = raw;
        self
    }

    fn met(&self) -> Option<bool> {
        self.figure
            .map(|figure| self.bound.holds(self.bootstrap.unwrap_or(figure)))
    }

    fn verdict(&self) -> &'static str {
        match self.met() {
            None => "skipped",
            Some(true) if !self.enough => "too few",
            Some(true) => "pass",
            Some(false) => "MISSED",
        }
    }

    fn measured(&self) -> String {
        match (self.figure, self.bootstrap) {
            (None, _) => "-".to_owned(),
            (Some(figure), None) => with_unit(figure, self.unit),
            (Some(figure), Some(bound)) => format!(
                "{} (95 %: {})",
                with_unit(figure, self.unit),
                plain(bound, self.unit)
            ),
        }
    }

    fn to_json(&self) -> Value {
        let (sense, limit) = match self.bound {
            Bound::AtMost(limit) => ("at most", limit),
            Bound::AtLeast(limit) => ("at least", limit),
            Bound::Exactly(limit) => ("exactly", limit),
        };
        json!({
            "bar": self.what,
            "unit": self.unit,
            "bound": { "sense": sense, "limit": limit },
            "measured": self.figure,
            "bootstrap_95": self.bootstrap,
            "deterministic": self.deterministic,
            "verdict": self.verdict().to_lowercase(),
            "note": self.note,
            "raw": self.raw,
        })
    }
}

/// All that was measured.
#[derive(Debug, Default)]
pub struct Results {
    bars: Vec<Bar>,
    details: Vec<(String, Vec<String>, Value)>,
}

impl Results {
    /// Add a bar, and show it at once.
    pub fn add(&mut self, bar: Bar) {
        eprintln!("{:>8}  {}: {}", bar.verdict(), bar.what, bar.measured());
        self.bars.push(bar);
    }

    /// Add what explains the bars, as lines and as data.
    pub(super) fn detail(&mut self, title: impl Into<String>, lines: Vec<String>, data: Value) {
        self.details.push((title.into(), lines, data));
    }

    /// Does every bar hold that does not depend on what else the machine does?
    pub fn gate(&self) -> bool {
        self.bars
            .iter()
            .all(|bar| !bar.deterministic || bar.met() != Some(false))
    }

    /// Write everything to `DIR/DATE-SUITE.json`.
    pub fn write(&self, dir: &Path, suite: &str) -> PathBuf {
        let now = machine::now();
        let details: serde_json::Map<String, Value> = self
            .details
            .iter()
            .map(|(title, _, data)| (title.clone(), data.clone()))
            .collect();
        let document = json!({
            "schema_version": 1,
            "date": now,
            "machine": machine::description(),
            "blackstart": machine::revision(),
            "bars": self.bars.iter().map(Bar::to_json).collect::<Vec<_>>(),
            "details": details,
        });
        fs::create_dir_all(dir).expect("make the directory for the results");
        let date = now.split('T').next().expect("a time begins with its date");
        let path = dir.join(format!("{date}-{suite}.json"));
        fs::write(&path, format!("{}\n", compact(&document))).expect("write the results");
        path
    }
}

/// One bar a line: raw samples on lines of their own would make a diff of tens of thousands.
fn compact(document: &Value) -> String {
    let lines = |value: &Value| match value {
        Value::Array(items) => format!(
            "[\n{}\n  ]",
            items
                .iter()
                .map(|item| format!("    {item}"))
                .collect::<Vec<_>>()
                .join(",\n")
        ),
        other => other.to_string(),
    };
    let fields = document.as_object().expect("the document is an object");
    let fields: Vec<_> = fields
        .iter()
        .map(|(key, value)| format!("  {}: {}", json!(key), lines(value)))
        .collect();
    format!("{{\n{}\n}}", fields.join(",\n"))
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows: Vec<[String; 5]> = self
            .bars
            .iter()
            .map(|bar| {
                let bound = match bar.bound {
                    Bound::AtMost(limit) => format!("≤ {}", with_unit(limit, bar.unit)),
                    Bound::AtLeast(limit) => format!("≥ {}", with_unit(limit, bar.unit)),
                    Bound::Exactly(limit) => format!("= {}", with_unit(limit, bar.unit)),
                };
                [
                    bar.what.clone(),
                    bar.measured(),
                    bound,
                    bar.verdict().to_owned(),
                    bar.note.clone(),
                ]
            })
            .collect();
        let head = ["bar", "measured", "bound", "", "note"].map(str::to_owned);
        let mut widths = [0; 4];
        for row in std::iter::once(&head).chain(&rows) {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        for [what, measured, bound, verdict, note] in std::iter::once(&head).chain(&rows) {
            let line = format!(
                "{what:<0$}  {measured:<1$}  {bound:<2$}  {verdict:<3$}  {note}",
                widths[0], widths[1], widths[2], widths[3]
            );
            writeln!(f, "{}", line.trim_end())?;
        }
        for (title, lines, _) in &self.details {
            writeln!(f, "\n{title}")?;
            for line in lines {
                writeln!(f, "  {line}")?;
            }
        }
        Ok(())
    }
}

fn with_unit(figure: f64, unit: &str) -> String {
    if unit.is_empty() {
        return plain(figure, unit);
    }
    format!("{} {unit}", plain(figure, unit))
}

/// Counts are whole; ratios need three digits to tell them from their bound.
fn plain(figure: f64, unit: &str) -> String {
    match unit {
        "" => format!("{figure:.3}"),
        "ns" | "refused" | "attempts" => format!("{figure:.0}"),
        _ => format!("{figure:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::pairs::Pairs;
    use super::*;

    #[test]
    fn what_varies_must_meet_the_bound_with_its_bootstrap_bound() {
        let pairs = Pairs((0..40).map(|i| (10.0 + f64::from(i % 8), 10.0)).collect());
        let estimate = pairs.difference();
        assert!(estimate.median < estimate.upper);
        let bar = |limit| Bar::paired("x", "ms", Bound::AtMost(limit), estimate, &pairs);
        assert_eq!(bar(estimate.median).met(), Some(false));
        assert_eq!(bar(estimate.upper).met(), Some(true));
        let bar = Bar::paired("x", "", Bound::AtLeast(estimate.median), estimate, &pairs);
        assert_eq!(bar.met(), Some(false));
    }

    #[test]
    fn too_few_pairs_are_no_pass_and_many_enough_to_miss() {
        let bar = |count, limit| {
            let pairs = Pairs(vec![(10.0, 10.0); count]);
            Bar::paired("x", "ms", Bound::AtMost(limit), pairs.difference(), &pairs)
        };
        let few = bar(ENOUGH - 1, 1.0);
        assert_eq!(few.verdict(), "too few");
        assert_eq!(few.to_json()["verdict"], "too few");
        assert_eq!(bar(ENOUGH, 1.0).verdict(), "pass");
        assert_eq!(bar(ENOUGH - 1, -1.0).verdict(), "MISSED");
    }

    #[test]
    fn a_missed_count_gates_and_a_skipped_bar_does_not_pass() {
        let mut results = Results::default();
        results.add(Bar::skipped("x", "ms", Bound::AtMost(1.0), "not here"));
        assert!(results.gate());
        assert!(results.to_string().contains("skipped"));
        results.add(Bar::deterministic("y", "", Bound::Exactly(0.0), 1.0));
        assert!(!results.gate());
        assert!(results.to_string().contains("MISSED"));
    }
}
