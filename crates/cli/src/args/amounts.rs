//! Amounts with their units, as they are typed.

use std::time::Duration;

use blackstart_core::policy::{MEMORY_UNITS, read_time};

/// A duration as a policy has it.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    read_time(text).map_err(|(message, help)| match help {
        Some(help) => format!("{message}; {help}"),
        None => message,
    })
}

/// How long ago: `12h`, `30d`, `8w`.
pub(super) fn age(text: &str) -> Result<Duration, String> {
    let split = text.len() - text.chars().last().map_or(0, char::len_utf8);
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        _ => return Err("write a number and its unit: `90m`, `12h`, `30d` or `8w`".to_owned()),
    };
    let number: u64 = whole(number).ok_or("write a whole number before the unit, such as `30d`")?;
    let time = number
        .checked_mul(seconds)
        .filter(|it| *it <= 1000 * 366 * 86_400);
    match time {
        Some(0) => Err("it is no time at all".to_owned()),
        Some(time) => Ok(Duration::from_secs(time)),
        None => Err("it is longer than a thousand years".to_owned()),
    }
}

/// `500MiB`, `2GiB`
pub(super) fn size(text: &str) -> Result<u64, String> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let bytes = MEMORY_UNITS.into_iter().find(|(name, _)| *name == unit);
    bytes
        .and_then(|(_, bytes)| whole(number)?.checked_mul(bytes))
        .ok_or_else(|| "write a whole number and its unit: `500MiB` or `2GiB`".to_owned())
}

/// No sign and no blank, as parsing alone would take.
fn whole(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_and_sizes_have_units() {
        assert_eq!(age("30d").unwrap().as_secs(), 30 * 86_400);
        assert_eq!(age("8w").unwrap(), age("56d").unwrap());
        for wrong in [
            "",
            "30",
            "d",
            "+3d",
            "3 d",
            "0d",
            "1.5d",
            "99999999999999999w",
            "3ä",
            "9999999d",
        ] {
            assert!(age(wrong).is_err(), "{wrong}");
        }
        assert_eq!(size("2GiB").unwrap(), 2 << 30);
        assert_eq!(size("0MiB").unwrap(), 0);
        for wrong in ["", "2", "GiB", "2GB", "-1GiB", "2 GiB", "99999999999TiB"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
