//! What was learned, written as a policy for people to look through.

use std::fmt::Write as _;

use super::{Evidence, Learned};
use crate::history::{day_text, time_text};
use crate::record::Verdict;
use crate::report::printable;
use crate::tables::Protocol;

/// How many of a kind a comment names.
const SHOWN: usize = 3;

impl Learned {
    /// The policy, ready to be committed. `today` and `service` stand in it; `refused` is what it refuses of the runs
    /// that it was learned from.
    pub fn text(&self, service: &str, today: &str, refused: u64) -> String {
        let mut out = String::new();
        let _ = writeln!(
            out,
            "# Learned on {today} from {} of {} on {}, {} to {}.",
            counted(self.runs, "run"),
            printable(service),
            counted(self.hosts as u64, "host"),
            day_text(self.first),
            day_text(self.last)
        );
        out.push_str("# It allows what these runs did, and refuses the rest. It observes: what it would refuse is recorded.\n");
        out.push_str("# Once `policy backtest` and some runs are quiet, say `mode: enforce`.\n");
        self.incomplete(&mut out);
        match refused {
            0 => out.push_str("# Held against the same runs, it refuses nothing.\n"),
            1 => out.push_str(
                "# Held against the same runs, it refuses 1 attempt: see what is left out.\n",
            ),
            refused => {
                let _ = writeln!(
                    out,
                    "# Held against the same runs, it refuses {refused} attempts: see what is left out."
                );
            }
        }
        let _ = write!(
            out,
            "apiVersion: blackstart.dev/v1\nkind: Policy\nservice: {}\nmode: observe\ndefault: deny\n",
            scalar(service)
        );
        out.push_str(if self.rules.is_empty() {
            "rules: []\n"
        } else {
            "rules:\n"
        });
        for rule in &self.rules {
            let _ = writeln!(out, "  # {}", rule.evidence.told(self.runs));
            for remark in &rule.remarks {
                let _ = writeln!(out, "  # {}", printable(remark));
            }
            let _ = writeln!(out, "  - allow: {}", scalar(&rule.allow));
            match rule.protocol {
                Some(Protocol::Tcp) => out.push_str("    protocol: tcp\n"),
                Some(Protocol::Udp) => out.push_str("    protocol: udp\n"),
                Some(Protocol::Other) | None => {}
            }
        }
        self.rest(&mut out);
        out
    }

    fn incomplete(&self, out: &mut String) {
        if self.lacking_runs == 0 {
            return;
        }
        let _ = writeln!(
            out,
            "#\n# Incomplete: {} of the {} may have reached for more than is known.",
            self.lacking_runs,
            counted(self.runs, "run")
        );
        for lacking in self.lacking.iter().take(SHOWN) {
            let _ = writeln!(
                out,
                "#   {}: {}",
                lacking.run,
                printable(&lacking.lacks.join(", "))
            );
        }
        if self.lacking_runs > SHOWN as u64 {
            let _ = writeln!(out, "#   … and {} more", self.lacking_runs - SHOWN as u64);
        }
        out.push_str("#\n");
    }

    fn rest(&self, out: &mut String) {
        if !self.left_out.is_empty() {
            out.push_str("#\n# Left out, since it did not pass freely:\n");
        }
        for (left, evidence) in &self.left_out {
            let why = match left.verdict {
                Verdict::Deny => "refused by",
                Verdict::WouldDeny => "would have been refused by",
                Verdict::Waived => "let pass by the waiver",
                Verdict::BreakGlass => "let pass with the glass broken, against",
                Verdict::Allow => "allowed by",
            };
            let _ = writeln!(
                out,
                "#   {}: {why} `{}` in {}",
                printable(&left.destination),
                printable(&left.rule),
                evidence.told(self.runs)
            );
        }
        if !self.unwritten.is_empty() {
            out.push_str("#\n# No rule can be made for:\n");
        }
        for unwritten in &self.unwritten {
            let _ = writeln!(out, "#   {unwritten}");
        }
    }
}

impl Evidence {
    /// `412 of 412 runs, 2026-10-29 to 2026-11-28; /usr/bin/curl`
    fn told(&self, all: u64) -> String {
        let mut text = format!("{} of {}", self.runs, counted(all, "run"));
        let (first, last) = (day_text(self.first), day_text(self.last));
        let _ = if first == last {
            write!(text, ", {first}")
        } else {
            write!(text, ", {first} to {last}")
        };
        let shown: Vec<String> = self
            .executables
            .iter()
            .take(SHOWN)
            .map(|exe| printable(exe))
            .collect();
        if !shown.is_empty() {
            let _ = write!(text, "; {}", shown.join(", "));
        }
        let more = self.executables.len().saturating_sub(SHOWN);
        if more > 0 {
            let _ = write!(text, " and {more} more");
        }
        text
    }

    /// First time, as reports write it.
    pub fn first_seen(&self) -> String {
        time_text(self.first)
    }

    /// Last time, as reports write it.
    pub fn last_seen(&self) -> String {
        time_text(self.last)
    }
}

fn counted(number: u64, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        number => format!("{number} {what}s"),
    }
}

/// A text as YAML has it: in quotes, where it could be read as something else.
fn scalar(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.:/".contains(c))
        && !text.ends_with(':')
        && !["true", "false", "null", "yes", "no", "on", "off"]
            .contains(&text.to_ascii_lowercase().as_str());
    if plain {
        text.to_owned()
    } else {
        serde_json::Value::from(text).to_string()
    }
}
