//! Which units of systemd are followed: names of services, with wildcards.

use serde::{Deserialize, Serialize};

/// The only kind of unit with a start that somebody waits for and that contacts others.
const KIND: &str = ".service";
/// systemd takes no longer name of a unit.
const LONGEST: usize = 255;

/// A service of systemd, or several: `*` stands for any characters, `?` for one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnitPattern(String);

/// Why a text names no service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadUnit {
    /// What it is instead.
    pub why: String,
    /// What to write.
    pub help: String,
}

impl UnitPattern {
    /// Read one.
    pub fn parse(text: &str) -> Result<Self, BadUnit> {
        let bad = |why: String, help: &str| {
            Err(BadUnit {
                why,
                help: help.to_owned(),
            })
        };
        let name = text.strip_suffix(KIND);
        // However it is written: `*`, `*.service`, `?*@*.service`.
        if !name.unwrap_or(text).contains(char::is_alphanumeric) && text.contains('*') {
            return bad(
                format!("and {text:?} is all of them"),
                "name the services that are meant, such as `deploy-*.service`",
            );
        }
        let Some(name) = name else {
            let kind = text.rsplit_once('.').map_or("", |(_, kind)| kind);
            let is_other = ["socket", "timer", "target", "scope", "slice", "mount"].contains(&kind);
            return match is_other {
                true => bad(
                    format!("and {text:?} is a {kind}"),
                    "name the service that it starts",
                ),
                false => bad(
                    format!("and {text:?} does not end in `{KIND}`"),
                    &format!("write `{}{KIND}`", text.trim_end_matches('.')),
                ),
            };
        };
        if name.is_empty() {
            return bad(
                format!("and {text:?} has no name before its ending"),
                "name the services that are meant, such as `deploy-*.service`",
            );
        }
        let fits = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@*?".contains(c);
        if let Some(wrong) = name.chars().find(|c| !fits(*c)) {
            return bad(
                format!("and {wrong:?} is in none"),
                "write it as `systemctl list-units` does; `*` stands for any characters, `?` for one",
            );
        }
        if text.len() > LONGEST {
            return bad(
                format!("and this has more than {LONGEST} characters"),
                "systemd takes no longer name",
            );
        }
        Ok(Self(text.to_owned()))
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Does it stand for several?
    pub fn is_glob(&self) -> bool {
        self.0.contains(['*', '?'])
    }

    /// Is this unit meant?
    pub fn matches(&self, unit: &str) -> bool {
        let (pattern, unit) = (self.0.as_bytes(), unit.as_bytes());
        let (mut at, mut of) = (0, 0);
        // Behind the last `*`, and where it began to stand for something: with one more character it may fit.
        let mut back: Option<(usize, usize)> = None;
        while of < unit.len() {
            match pattern.get(at) {
                Some(b'*') => {
                    at += 1;
                    back = Some((at, of));
                }
                Some(&octet) if octet == b'?' || octet == unit[of] => {
                    at += 1;
                    of += 1;
                }
                _ => match &mut back {
                    Some((behind, from)) => {
                        *from += 1;
                        (at, of) = (*behind, *from);
                    }
                    None => return false,
                },
            }
        }
        pattern[at..].iter().all(|octet| *octet == b'*')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_for_the_whole_name() {
        let matches =
            |pattern: &str, unit: &str| UnitPattern::parse(pattern).unwrap().matches(unit);
        assert!(matches("mysql.service", "mysql.service"));
        assert!(!matches("mysql.service", "mysql.service.d"));
        assert!(!matches("mysql.service", "mysqlXservice"));
        assert!(matches("app-*.service", "app-web.service"));
        assert!(matches("app-*.service", "app-.service"));
        assert!(!matches("app-*.service", "app.service"));
        assert!(matches("a*b*c.service", "axbxbxc.service"));
        assert!(!matches("a*b*c.service", "axbxbx.service"));
        assert!(matches("web@?.service", "web@1.service"));
        assert!(!matches("web@?.service", "web@12.service"));
        assert!(!UnitPattern::parse("mysql.service").unwrap().is_glob());
    }

    #[test]
    fn what_is_no_service_is_told() {
        let why = |text: &str| {
            let error = UnitPattern::parse(text).unwrap_err();
            format!("{}; {}", error.why, error.help)
        };
        assert_eq!(
            why("mysql"),
            "and \"mysql\" does not end in `.service`; write `mysql.service`"
        );
        assert_eq!(
            why("mysql.socket"),
            "and \"mysql.socket\" is a socket; name the service that it starts"
        );
        assert!(why("a/b.service").starts_with("and '/' is in none"));
        assert!(why("*.service").contains("all of them"));
        for text in ["*", "?*.service", "*@*.service"] {
            assert!(why(text).contains("all of them"), "{text}");
        }
        assert!(why(".service").contains("no name"));
        assert!(why(&format!("{}.service", "a".repeat(255))).contains("255"));
    }
}
