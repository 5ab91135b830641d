//! Where in a run something happened.

use blackstart_core::report::Parts;
use jiff::Timestamp;

/// The run from its start to its end, in microseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    start: i64,
    end: i64,
}

/// A part of the run, in hundredths of it: as many classes as the style has (`bars`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) left: u32,
    pub(super) width: u32,
}

/// The classes that bars are placed by: a policy that knows the style by its hash lets no element have a style of
/// its own, and a drawing for each row would make a large page slow.
pub(super) fn bars() -> String {
    let left = (0..100).map(|at| format!(".l{at}{{margin-left:{at}%}}"));
    let width = (1..=100).map(|at| format!(".w{at}{{width:{at}%}}"));
    left.chain(width).collect()
}

/// A place on the axis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tick {
    pub(super) at: u32,
    pub(super) text: String,
}

impl Tick {
    /// In percent.
    pub(super) fn left(&self) -> f64 {
        f64::from(self.at) / 10.0
    }
}

/// Steps that a person counts in, in microseconds.
const STEPS: [i64; 24] = [
    1_000,
    2_000,
    5_000,
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    120_000_000,
    300_000_000,
    600_000_000,
    1_800_000_000,
    3_600_000_000,
    7_200_000_000,
    21_600_000_000,
    43_200_000_000,
    86_400_000_000,
];

impl Clock {
    /// A run whose end was not seen ends with the last that was.
    pub(super) fn of(report: &dyn Parts) -> Self {
        let run = report.run();
        let start = micros(&run.started).unwrap_or(0);
        let end = run.ended.as_deref().and_then(micros).or_else(|| {
            let seen = report.flows().filter_map(|flow| micros(&flow.last_seen));
            seen.max()
        });
        Self {
            start,
            end: end.unwrap_or(start).max(start.saturating_add(1)),
        }
    }

    /// How long the run was.
    pub(super) fn length(self) -> i64 {
        self.end.saturating_sub(self.start)
    }

    /// How long after the start; what is a little before it, for clocks are read one after the other, is at it.
    pub(super) fn after(self, time: &str) -> i64 {
        let at = micros(time).unwrap_or(self.start);
        at.saturating_sub(self.start).max(0)
    }

    fn thousandths(self, after: i64) -> u32 {
        let part = i128::from(after) * 1000 / i128::from(self.length());
        u32::try_from(part.clamp(0, 1000)).unwrap_or(1000)
    }

    /// From one time to another, or to the end. What is too short for its length to be seen is shown all the
    /// same.
    pub(super) fn span(self, from: &str, to: Option<&str>) -> Span {
        let from = self.thousandths(self.after(from)).min(990);
        let to = to.map_or(1000, |to| self.thousandths(self.after(to)));
        let left = from / 10;
        Span {
            left,
            width: (to.saturating_sub(from) + 5)
                .div_euclid(10)
                .clamp(1, 100 - left),
        }
    }

    /// A handful of places, the start among them.
    pub(super) fn ticks(self) -> Vec<Tick> {
        let step = STEPS
            .into_iter()
            .find(|step| self.length() / step < 4)
            .unwrap_or(self.length() / 4);
        // On a narrow page a text takes a fifth of the axis.
        (0..4)
            .map(|number| number * step)
            .take_while(|after| *after <= self.length())
            .map(|after| Tick {
                at: self.thousandths(after),
                text: length_text(after),
            })
            // To the right of it there is room for its text.
            .filter(|tick| tick.at <= 800)
            .collect()
    }
}

fn micros(time: &str) -> Option<i64> {
    time.parse::<Timestamp>()
        .ok()
        .map(Timestamp::as_microsecond)
}

/// `0.2 s`, `3 min 20 s`: three digits at most that matter.
pub(crate) fn length_text(micros: i64) -> String {
    let seconds = micros / 1_000_000;
    match micros {
        0 => "0".to_owned(),
        1..1_000_000 => format!("{} ms", (micros + 500) / 1_000),
        1_000_000..10_000_000 => trimmed(micros as f64 / 1e6, 2),
        10_000_000..60_000_000 => trimmed(micros as f64 / 1e6, 1),
        _ if seconds < 3600 => of_two(seconds / 60, "min", seconds % 60, "s"),
        _ if seconds < 86_400 => of_two(seconds / 3600, "h", seconds / 60 % 60, "min"),
        _ => of_two(seconds / 86_400, "d", seconds / 3600 % 24, "h"),
    }
}

fn trimmed(seconds: f64, digits: usize) -> String {
    let text = format!("{seconds:.digits$}");
    format!("{} s", text.trim_end_matches('0').trim_end_matches('.'))
}

fn of_two(large: i64, unit: &str, small: i64, part: &str) -> String {
    match small {
        0 => format!("{large} {unit}"),
        small => format!("{large} {unit} {small} {part}"),
    }
}

/// `2026-11-28 02:32:01` of an RFC 3339 time; what is none is shown as it is.
pub(crate) fn day_and_time(time: &str) -> String {
    match time.get(..19) {
        Some(first) => first.replacen('T', " ", 1),
        None => time.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock(seconds: i64) -> Clock {
        Clock {
            start: 0,
            end: seconds * 1_000_000,
        }
    }

    #[test]
    fn what_lies_outside_is_shown_at_the_edge() {
        let clock = clock(10);
        let at = |text: &str| format!("1970-01-01T00:00:{text}Z");
        let span = |from: &str, to: &str| {
            let span = clock.span(&at(from), Some(&at(to)));
            (span.left, span.width)
        };
        assert_eq!(span("02.500000", "05.000000"), (25, 25));
        assert_eq!(span("10.000000", "12.000000"), (99, 1));
        assert_eq!(clock.span("1969-12-31T23:59:59Z", None).left, 0);
        assert_eq!(
            clock.span("no time", Some("none")),
            Span { left: 0, width: 1 }
        );
    }

    #[test]
    fn an_axis_has_a_handful_of_ticks() {
        for seconds in [1, 3, 4, 7, 17, 59, 61, 3599, 3600, 90_000, 9_000_000] {
            let ticks = clock(seconds).ticks();
            assert!((2..=4).contains(&ticks.len()), "{seconds}: {ticks:?}");
            assert_eq!(ticks[0].at, 0);
            assert!(ticks.windows(2).all(|pair| pair[1].at - pair[0].at >= 200));
            assert!(ticks.iter().all(|tick| tick.at <= 800));
        }
        assert_eq!(clock(3).ticks()[1].text, "1 s");
    }

    #[test]
    fn lengths_are_read_at_a_glance() {
        let texts = [
            0,
            400,
            250_000,
            1_500_000,
            12_340_000,
            200_000_000,
            7_260_000_000,
        ];
        assert_eq!(
            texts.map(length_text),
            [
                "0",
                "0 ms",
                "250 ms",
                "1.5 s",
                "12.3 s",
                "3 min 20 s",
                "2 h 1 min"
            ]
        );
    }
}
