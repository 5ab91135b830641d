//! A unit that was followed, in one line.

use blackstart_core::history::micros;
use blackstart_core::report::Followed;

/// `mysql.service, for 1.2s until it was active; the run had reached for /run/systemd/private`
pub(crate) fn told(unit: &Followed) -> String {
    let length = unit.ended.as_deref().map(|ended| {
        let micros = u64::try_from(micros(ended) - micros(&unit.started)).unwrap_or(0);
        let millis = micros / 1000;
        match millis {
            0..1000 => format!("{millis}ms"),
            _ => format!("{}.{}s", millis / 1000, millis % 1000 / 100),
        }
    });
    let until = match (length, unit.until) {
        (Some(length), Some(_)) if unit.at_once => {
            format!("for {length} until it was active, which its type is at once")
        }
        (Some(length), Some(until)) => format!("for {length} until {}", until.words()),
        _ => "up to a moment that was not seen".to_owned(),
    };
    let asked = match &unit.asked {
        None => "whether the run asked for it is not known".to_owned(),
        Some(asked) if asked.is_empty() => {
            "nothing of the run had reached for systemd before: it may have started for reasons of its own"
                .to_owned()
        }
        Some(asked) => format!("the run had reached for {}", asked.join(", ")),
    };
    format!("{}, {until}; {asked}", unit.unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use blackstart_core::report::FollowedUntil;

    #[test]
    fn a_unit_is_told_with_its_reason_if_it_has_one() {
        let unit = |asked: Option<Vec<String>>, until: Option<FollowedUntil>| Followed {
            unit: "db.service".to_owned(),
            subject: Some(1),
            cgroup: "/system.slice/db.service".to_owned(),
            asked,
            started: "2026-11-28T10:00:00.000000Z".to_owned(),
            ended: until.map(|_| "2026-11-28T10:00:01.250000Z".to_owned()),
            until,
            at_once: false,
        };
        let private = vec!["/run/systemd/private".to_owned()];
        assert_eq!(
            told(&unit(Some(private), Some(FollowedUntil::Active))),
            "db.service, for 1.2s until it was active; the run had reached for /run/systemd/private"
        );
        let simple = Followed {
            at_once: true,
            ..unit(None, Some(FollowedUntil::Active))
        };
        assert!(
            told(&simple).starts_with(
                "db.service, for 1.2s until it was active, which its type is at once; "
            )
        );
        assert_eq!(
            told(&unit(Some(Vec::new()), Some(FollowedUntil::Failed))),
            "db.service, for 1.2s until it failed; nothing of the run had reached for systemd before: it may have started for reasons of its own"
        );
        assert_eq!(
            told(&unit(None, None)),
            "db.service, up to a moment that was not seen; whether the run asked for it is not known"
        );
    }
}
