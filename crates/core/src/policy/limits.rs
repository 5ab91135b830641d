//! The limits of a run: what its author wrote, and what is wrong with it.
//!
//! Values are kept exact and are written in one way only. What could be meant in two ways (`2GB`, `90`) is an error
//! that names the form that was probably meant: a limit that is off by a factor ends a deployment that was fine.

mod amounts;

use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::document::{Node, Places, Value, listed, nearest};

pub use amounts::{Cpus, MEMORY_UNITS, memory_text, read_time, time_text};
use amounts::{cpu, example, memory, pids, time};

const KEYS: &[&str] = &["memory", "cpu", "pids", "time"];

/// What a run may use. None: no limit of ours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory of all its processes, page cache and swap included, in bytes.
    pub memory: Option<u64>,
    /// Processor time of all its processes.
    pub cpu: Option<Cpus>,
    /// Processes at the same time, each thread counted as one, as the kernel counts them.
    pub pids: Option<u32>,
    /// From the command's start to its end.
    pub time: Option<Duration>,
}

impl Limits {
    /// The smaller limit of two layers, each by itself: a layer can tighten what another allows, never widen it.
    pub fn tightest(self, other: Self) -> Self {
        fn smaller<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
            match (one, other) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            }
        }
        Self {
            memory: smaller(self.memory, other.memory),
            cpu: smaller(self.cpu, other.cpu),
            pids: smaller(self.pids, other.pids),
            time: smaller(self.time, other.time),
        }
    }

    /// Is nothing limited?
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What is wrong, where, and what to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Complaint {
    pub(super) span: Range<usize>,
    pub(super) message: String,
    pub(super) help: Option<String>,
}

/// Read the value of `limits`, with everything that is wrong with it.
pub(super) fn read(node: &Node, places: &Places<'_>) -> (Limits, Vec<Complaint>) {
    let mut limits = Limits::default();
    let mut wrong = Vec::new();
    let mut complain = |span: &Range<usize>, message: String, help: Option<String>| {
        wrong.push(Complaint {
            span: span.clone(),
            message,
            help,
        });
    };
    let pairs = match &node.value {
        Value::Mapping(pairs) => pairs.as_slice(),
        other => {
            let help = "write `limits: { memory: 2GiB, cpu: 1.5, pids: 512, time: 30m }`, or as many of them as are meant";
            let message = format!("`limits` takes a mapping, found {}", other.kind());
            complain(&node.span, message, Some(help.to_owned()));
            return (limits, wrong);
        }
    };
    let mut first: Vec<(&str, usize)> = Vec::new();
    for (key, value) in pairs {
        let Value::Text(name) = &key.value else {
            let message = format!("a key is text, found {}", key.value.kind());
            complain(&key.span, message, None);
            continue;
        };
        let Some(known) = KEYS.iter().copied().find(|known| known == name) else {
            let help = match nearest(name, KEYS) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("the limits are {}", listed(KEYS)),
            };
            complain(&key.span, format!("`{name}` is not a limit"), Some(help));
            continue;
        };
        if let Some((_, line)) = first.iter().find(|(name, _)| *name == known) {
            let help = format!("it stands first in line {line}; keep one of the two");
            complain(&key.span, format!("`{known}` stands twice"), Some(help));
            continue;
        }
        first.push((known, places.line_and_column(key.span.start).0));
        let text = match &value.value {
            Value::Text(text) => text.as_str(),
            other => {
                let span = if matches!(other, Value::Null) {
                    &key.span
                } else {
                    &value.span
                };
                let message = format!("`{known}` takes {}, found {}", example(known), other.kind());
                let help = matches!(other, Value::Null)
                    .then(|| "leave the key out where there is to be no limit".to_owned());
                complain(span, message, help);
                continue;
            }
        };
        let outcome = match known {
            "memory" => memory(text).map(|bytes| limits.memory = Some(bytes)),
            "cpu" => cpu(text).map(|cpus| limits.cpu = Some(cpus)),
            "pids" => pids(text).map(|count| limits.pids = Some(count)),
            _ => time(text).map(|time| limits.time = Some(time)),
        };
        if let Err((message, help)) = outcome {
            complain(&value.span, message, help);
        }
    }
    (limits, wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smaller_of_two_holds_each_by_itself() {
        let host = Limits {
            memory: Some(4 << 30),
            pids: Some(100),
            ..Limits::default()
        };
        let run = Limits {
            memory: Some(2 << 30),
            cpu: Some(Cpus::from_thousandths(1500)),
            pids: Some(512),
            time: None,
        };
        let both = Limits {
            memory: Some(2 << 30),
            cpu: Some(Cpus::from_thousandths(1500)),
            pids: Some(100),
            time: None,
        };
        assert_eq!(host.tightest(run), both);
        assert_eq!(run.tightest(host), both);
        assert_eq!(run.tightest(Limits::default()), run);
        assert!(Limits::default().is_empty() && !run.is_empty());
    }
}
