//! Amounts as a policy has them: how each is written, and what was meant by what is written otherwise.

use std::fmt;
use std::time::Duration;

use jiff::SignedDuration;
use jiff::fmt::friendly::SpanParser;
use serde::{Deserialize, Serialize};

/// Units of memory, the largest first.
pub const MEMORY_UNITS: [(&str, u64); 4] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
];

/// Below this not even a shell starts.
const MEMORY_LEAST: u64 = 1 << 20;
/// More than any machine has.
const MEMORY_MOST: u64 = 1 << 50;
/// The kernel hands out no less than 1 ms in each period of 100 ms.
const CPU_LEAST: Cpus = Cpus(10);
/// More than any kernel can be built for.
const CPU_MOST: Cpus = Cpus(8192 * 1000);
/// The kernel's own bound on process ids (PID_MAX_LIMIT, 64 bit).
const PIDS_MOST: u32 = 1 << 22;
const TIME_LEAST: Duration = Duration::from_secs(1);
/// Longer than any deployment: what is longer is a service, and no run.
const TIME_MOST: Duration = Duration::from_secs(30 * 24 * 3600);
/// For whoever wants none.
const LEAVE_OUT: &str = "leave the key out where there is to be no limit";

/// Processors, in thousandths of one: 1500 is the time of one and a half.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cpus(u32);

impl Cpus {
    /// From thousandths of a processor.
    pub fn from_thousandths(thousandths: u32) -> Self {
        Self(thousandths)
    }

    /// In thousandths of a processor.
    pub fn thousandths(self) -> u32 {
        self.0
    }
}

/// As a policy writes it: `1.5`.
impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 1000, self.0 % 1000);
        if rest == 0 {
            return write!(f, "{whole}");
        }
        let rest = format!("{rest:03}");
        write!(f, "{whole}.{}", rest.trim_end_matches('0'))
    }
}

/// Bytes as a policy would write them, in the largest unit that leaves no more than two decimals: `2GiB`, `1.5MiB`.
/// What no unit fits is rounded, so this is for people.
pub fn memory_text(bytes: u64) -> String {
    let Some((name, unit)) = MEMORY_UNITS.into_iter().find(|(_, unit)| bytes >= *unit) else {
        return format!("{bytes}B");
    };
    // Rounded down: a use shown as the limit shall have reached it.
    let hundredths = u128::from(bytes) * 100 / u128::from(unit);
    let (whole, rest) = (hundredths / 100, hundredths % 100);
    let number = format!("{whole}.{rest:02}");
    let number = number.trim_end_matches('0').trim_end_matches('.');
    format!("{number}{name}")
}

/// A duration as a policy would write it, to the second: `1h30m`, `90s` as `1m30s`.
pub fn time_text(time: Duration) -> String {
    let seconds = time.as_secs();
    let parts = [
        (seconds / 3600, 'h'),
        (seconds / 60 % 60, 'm'),
        (seconds % 60, 's'),
    ];
    let text: String = parts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, unit)| format!("{count}{unit}"))
        .collect();
    if text.is_empty() {
        "0s".to_owned()
    } else {
        text
    }
}

/// What a limit takes, for "takes …, found …".
pub(super) fn example(key: &str) -> &'static str {
    match key {
        "memory" => "a size such as `512MiB` or `2GiB`",
        "cpu" => "a number of processors such as `2` or `1.5`",
        "pids" => "a number of processes such as `512`",
        _ => "a duration such as `90s`, `30m` or `1h30m`",
    }
}

/// What is wrong, and what to do.
pub(super) type Wrong = (String, Option<String>);

fn unreadable(key: &str, text: &str, help: Option<String>) -> Wrong {
    let message = format!("`{key}` takes {}, found {text:?}", example(key));
    (message, help)
}

fn none(key: &str, text: &str) -> Wrong {
    let message = format!("`{key}: {text}` would leave nothing to run with");
    (message, Some(LEAVE_OUT.to_owned()))
}

/// Is it a bound at all? `max`, `unlimited`, …: what other tools write for none.
fn bounded(key: &str, text: &str) -> Result<(), Wrong> {
    let endless = ["max", "unlimited", "infinity", "none", "off", "-1"]
        .iter()
        .any(|word| text.eq_ignore_ascii_case(word));
    if endless {
        return Err(unreadable(key, text, Some(LEAVE_OUT.to_owned())));
    }
    if text.starts_with('-') {
        let message = format!("`{key}` cannot be negative, found {text:?}");
        return Err((message, Some(LEAVE_OUT.to_owned())));
    }
    Ok(())
}

/// A decimal number as thousandths; none if it is no such number, or finer than that.
fn thousandths(text: &str) -> Option<u64> {
    let (whole, rest) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(rest) || rest.len() > 3 {
        return None;
    }
    let rest: u64 = format!("{rest:0<3}").parse().ok()?;
    whole
        .parse::<u64>()
        .ok()?
        .checked_mul(1000)?
        .checked_add(rest)
}

pub(super) fn memory(text: &str) -> Result<u64, Wrong> {
    let key = "memory";
    bounded(key, text)?;
    let end = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let Some(number_in_thousandths) = thousandths(number) else {
        return Err(unreadable(key, text, None));
    };
    // `2G`: as the kernel's own files, systemd and docker take it.
    let is_it = |name: &str| name == unit || name.strip_suffix("iB") == Some(unit);
    let unit = match MEMORY_UNITS.into_iter().find(|(name, _)| is_it(name)) {
        Some((_, bytes)) => bytes,
        None if unit.is_empty() => 1,
        None => return Err(wrong_unit(text, number, unit)),
    };
    let bytes = u128::from(number_in_thousandths) * u128::from(unit) / 1000;
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
    if bytes == 0 {
        return Err(none(key, text));
    }
    if bytes < MEMORY_LEAST {
        let message = format!("`memory: {text}` is less than any program starts with");
        let help = if unit == 1 {
            format!("without a unit it is bytes; did you mean `{number}MiB`?")
        } else {
            "the least is `1MiB`".to_owned()
        };
        return Err((message, Some(help)));
    }
    if bytes > MEMORY_MOST {
        let message = format!("`memory: {text}` is more than any machine has");
        return Err((message, Some(LEAVE_OUT.to_owned())));
    }
    Ok(bytes)
}

/// A unit that is none of ours, and the one that was meant.
fn wrong_unit(text: &str, number: &str, unit: &str) -> Wrong {
    let trimmed = unit.trim();
    let mut letters = trimmed.chars();
    let letter = letters.next().map(|c| c.to_ascii_uppercase());
    let rest: String = letters.collect::<String>().to_ascii_lowercase();
    let known = letter.filter(|letter| "KMGT".contains(*letter));
    match (known, rest.as_str()) {
        // 1000 or 1024: both are in use.
        (Some(letter), "b") if trimmed.starts_with(letter) => (
            format!("`memory: {text}` may be counted in thousands or in 1024s"),
            Some(format!("write `{number}{letter}iB`, which is in 1024s")),
        ),
        (Some(letter), "" | "b" | "i" | "ib") => unreadable(
            "memory",
            text,
            Some(format!("did you mean `{number}{letter}iB`?")),
        ),
        (None, _) if trimmed.eq_ignore_ascii_case("b") || trimmed.eq_ignore_ascii_case("bytes") => {
            unreadable(
                "memory",
                text,
                Some(format!("a number alone is bytes: write `{number}`")),
            )
        }
        _ => unreadable(
            "memory",
            text,
            Some("the units are `KiB`, `MiB`, `GiB` and `TiB`".to_owned()),
        ),
    }
}

pub(super) fn cpu(text: &str) -> Result<Cpus, Wrong> {
    let key = "cpu";
    bounded(key, text)?;
    let of_thousandths = |number: u64| {
        u32::try_from(number)
            .ok()
            .map(|number| Cpus(number).to_string())
    };
    // As others write it: 1500m, 150%.
    let meant = [("m", 1000), ("%", 100)]
        .into_iter()
        .find_map(|(unit, per_one)| {
            let number = thousandths(text.strip_suffix(unit)?)?;
            (number % per_one == 0).then(|| of_thousandths(number / per_one))?
        });
    if let Some(meant) = meant {
        return Err(unreadable(
            key,
            text,
            Some(format!("did you mean `{meant}`?")),
        ));
    }
    let Some(number) = thousandths(text) else {
        let decimals = text.split_once('.').map_or("", |(_, rest)| rest);
        let fine = decimals.len() > 3 && decimals.bytes().all(|b| b.is_ascii_digit());
        let help = fine.then(|| "three decimals are as fine as it goes".to_owned());
        return Err(unreadable(key, text, help));
    };
    if number == 0 {
        return Err(none(key, text));
    }
    let cpus = u32::try_from(number).map_or(Cpus(u32::MAX), Cpus);
    if cpus < CPU_LEAST {
        let message = format!("`cpu: {text}` is less than the kernel hands out");
        return Err((message, Some(format!("the least is `{CPU_LEAST}`"))));
    }
    if cpus > CPU_MOST {
        let message = format!("`cpu: {text}` is more processors than any machine has");
        let help = (number % 1_000_000 == 0)
            .then(|| of_thousandths(number / 1000))
            .flatten()
            .map(|meant| format!("it counts whole processors; did you mean `{meant}`?"));
        return Err((message, help));
    }
    Ok(cpus)
}

pub(super) fn pids(text: &str) -> Result<u32, Wrong> {
    let key = "pids";
    bounded(key, text)?;
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(unreadable(key, text, None));
    }
    match text.parse::<u32>() {
        Ok(0) => Err(none(key, text)),
        Ok(count) if count <= PIDS_MOST => Ok(count),
        _ => Err((
            format!("`pids: {text}` is more than the kernel has process ids"),
            Some(LEAVE_OUT.to_owned()),
        )),
    }
}

/// Read a duration as a policy has it: `90s`, `30m`, `1h30m`. Or what is wrong with it, and what to do.
pub fn read_time(text: &str) -> Result<Duration, (String, Option<String>)> {
    time(text)
}

pub(super) fn time(text: &str) -> Result<Duration, Wrong> {
    let key = "time";
    bounded(key, text)?;
    if text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() {
        let message = format!("`time: {text}` has no unit");
        return Err((
            message,
            Some(format!("write `{text}s` or `{text}m`, whichever is meant")),
        ));
    }
    // The parser knows more than is good for a policy: clock times, blanks, "ago".
    let plain = text
        .bytes()
        .all(|b| b.is_ascii_digit() || matches!(b, b'h' | b'm' | b's'));
    let parsed = plain
        .then(|| SpanParser::new().parse_duration(text).ok())
        .flatten()
        .and_then(|parsed: SignedDuration| Duration::try_from(parsed).ok())
        .filter(|parsed| parsed.subsec_nanos() == 0);
    let Some(time) = parsed else {
        let number = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let days = number
            .parse::<u64>()
            .ok()
            .and_then(|days| days.checked_mul(24))
            .filter(|_| matches!(text[number.len()..].trim(), "d" | "day" | "days"))
            .map(|hours| format!("write hours: `{hours}h`"));
        let help =
            days.unwrap_or_else(|| "the units are `h`, `m` and `s`, in that order".to_owned());
        return Err(unreadable(key, text, Some(help)));
    };
    if time.is_zero() {
        return Err(none(key, text));
    }
    if !(TIME_LEAST..=TIME_MOST).contains(&time) {
        let message = format!("`time: {text}` is longer than any deployment");
        let help = format!("the most is `{}`", time_text(TIME_MOST));
        return Err((message, Some(help)));
    }
    Ok(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_exactly() {
        for (text, bytes) in [
            ("2GiB", 2 << 30),
            ("2G", 2 << 30),
            ("1.5GiB", 3 << 29),
            ("512MiB", 512 << 20),
            ("512M", 512 << 20),
            ("2048KiB", 2 << 20),
            ("1TiB", 1 << 40),
            ("2147483648", 2 << 30),
        ] {
            assert_eq!(memory(text), Ok(bytes), "{text}");
        }
        for (text, thousandths) in [("2", 2000), ("1.5", 1500), ("0.01", 10), ("0.125", 125)] {
            assert_eq!(cpu(text), Ok(Cpus(thousandths)), "{text}");
            assert_eq!(Cpus(thousandths).to_string(), text);
        }
        assert_eq!(pids("512"), Ok(512));
        for (text, seconds) in [("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400)] {
            assert_eq!(time(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(time("1h30m10s"), Ok(Duration::from_secs(5410)));
    }

    #[test]
    fn the_form_that_was_meant_is_named() {
        fn help<T: fmt::Debug>(outcome: Result<T, Wrong>) -> String {
            let (message, help) = outcome.unwrap_err();
            help.unwrap_or(message)
        }
        for (text, part) in [
            ("2GB", "write `2GiB`"),
            ("2gb", "did you mean `2GiB`"),
            ("2Gi", "did you mean `2GiB`"),
            ("2gib", "did you mean `2GiB`"),
            ("2 GiB", "did you mean `2GiB`"),
            ("512m", "did you mean `512MiB`"),
            ("512", "did you mean `512MiB`"),
            ("4KiB", "the least is `1MiB`"),
            ("100B", "write `100`"),
            ("2PiB", "the units are"),
            ("9999TiB", "leave the key out"),
            ("99999999999999999999TiB", "takes a size"),
            ("0", "leave the key out"),
            ("-1GiB", "leave the key out"),
            ("max", "leave the key out"),
            ("lots", "takes a size"),
            ("", "takes a size"),
            ("1.2345GiB", "takes a size"),
        ] {
            assert!(
                help(memory(text)).contains(part),
                "{text}: {}",
                help(memory(text))
            );
        }
        for (text, part) in [
            ("1500m", "did you mean `1.5`"),
            ("150%", "did you mean `1.5`"),
            ("0.0015", "three decimals"),
            ("0.001", "the least is `0.01`"),
            ("0", "leave the key out"),
            ("-1", "leave the key out"),
            ("100000", "did you mean `100`"),
            ("1,5", "takes a number"),
            ("two", "takes a number"),
            (".5", "takes a number"),
            ("1.", "takes a number"),
        ] {
            assert!(
                help(cpu(text)).contains(part),
                "{text}: {}",
                help(cpu(text))
            );
        }
        for (text, part) in [
            ("0", "leave the key out"),
            ("-3", "leave the key out"),
            ("max", "leave the key out"),
            ("5.5", "takes a number"),
            ("1k", "takes a number"),
            ("99999999", "leave the key out"),
            ("99999999999999999999", "leave the key out"),
        ] {
            assert!(
                help(pids(text)).contains(part),
                "{text}: {}",
                help(pids(text))
            );
        }
        for (text, part) in [
            ("90", "write `90s` or `90m`"),
            ("2d", "write hours: `48h`"),
            ("2 days", "write hours: `48h`"),
            ("0s", "leave the key out"),
            ("-5m", "leave the key out"),
            ("1000h", "the most is `720h`"),
            ("30m1h", "in that order"),
            ("1.5h", "in that order"),
            ("1h ago", "in that order"),
            ("soon", "in that order"),
            ("00:30:00", "in that order"),
            ("", "in that order"),
            ("500ms", "in that order"),
            ("ms", "in that order"),
        ] {
            assert!(
                help(time(text)).contains(part),
                "{text}: {}",
                help(time(text))
            );
        }
    }

    #[test]
    fn for_people_values_are_short() {
        for (bytes, text) in [
            (2 << 30, "2GiB"),
            (3 << 29, "1.5GiB"),
            ((2 << 30) - 1, "1.99GiB"),
            (1 << 20, "1MiB"),
            (1000, "1000B"),
            (0, "0B"),
            (u64::MAX, "16777215.99TiB"),
        ] {
            assert_eq!(memory_text(bytes), text);
        }
        for (seconds, text) in [(1800, "30m"), (5400, "1h30m"), (61, "1m1s"), (0, "0s")] {
            assert_eq!(time_text(Duration::from_secs(seconds)), text);
        }
    }
}
