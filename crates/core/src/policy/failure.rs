//! How a refused attempt ends: what stands after `on_match:`.

use super::{Failure, target::Wrong};
use crate::document::{listed, nearest};

/// What a refused connect may fail with. The numbers are those of x86_64 and aarch64; others are not offered,
/// since no program expects them of a connect.
const ERRNOS: &[(&str, u8)] = &[
    ("EPERM", 1),
    ("EACCES", 13),
    ("ENETDOWN", 100),
    ("ENETUNREACH", 101),
    ("ECONNABORTED", 103),
    ("ECONNRESET", 104),
    ("ETIMEDOUT", 110),
    ("ECONNREFUSED", 111),
    ("EHOSTDOWN", 112),
    ("EHOSTUNREACH", 113),
];
const WORDS: &[&str] = &["refuse", "blackhole", "reset"];

impl Failure {
    /// Read `refuse`, `refuse ERRNO`, `blackhole` or `reset`.
    pub(super) fn parse(text: &str) -> Result<Self, Wrong> {
        let mut words = text.split_ascii_whitespace();
        let (word, errno) = (words.next().unwrap_or_default(), words.next());
        let forms = || {
            "write `refuse`, `refuse ERRNO` (such as `refuse EHOSTUNREACH`), `blackhole` or `reset`"
                .to_owned()
        };
        let wrong = |help| {
            Err(Wrong {
                message: format!("`on_match` cannot be {text:?}"),
                help: Some(help),
            })
        };
        match (word, errno, words.next()) {
            ("refuse", None, _) => Ok(Self::REFUSE),
            ("blackhole", None, _) => Ok(Self::Blackhole),
            ("reset", None, _) => Ok(Self::RESET),
            ("refuse", Some(name), None) => {
                if let Some((_, number)) = ERRNOS.iter().find(|(known, _)| *known == name) {
                    return Ok(Self::Refuse(*number));
                }
                let known: Vec<&str> = ERRNOS.iter().map(|(known, _)| *known).collect();
                Err(Wrong {
                    message: format!("{name:?} is not an errno that a refused connect ends with"),
                    help: Some(match nearest(name, &known) {
                        Some(near) => format!("did you mean `{near}`?"),
                        None => format!("write one of {}", listed(&known)),
                    }),
                })
            }
            ("blackhole" | "reset", Some(_), _) => {
                let message = format!("`{word}` takes no errno");
                let help = Some(forms());
                Err(Wrong { message, help })
            }
            _ if ERRNOS.iter().any(|(known, _)| *known == word) => {
                wrong(format!("write `refuse {word}`"))
            }
            _ => wrong(match nearest(word, WORDS) {
                Some(near) if errno.is_none() => format!("did you mean `{near}`?"),
                _ => forms(),
            }),
        }
    }

    /// All that may be written in a policy.
    pub(super) fn all_words() -> Vec<String> {
        let words = WORDS.iter().map(|word| (*word).to_owned());
        let errnos = ERRNOS.iter().map(|(name, _)| format!("refuse {name}"));
        words.chain(errnos).collect()
    }

    /// As it is written in a policy.
    pub fn words(self) -> String {
        match self {
            Self::Blackhole => "blackhole".to_owned(),
            Self::REFUSE => "refuse".to_owned(),
            Self::RESET => "reset".to_owned(),
            Self::Refuse(number) => match ERRNOS.iter().find(|(_, known)| *known == number) {
                Some((name, _)) => format!("refuse {name}"),
                None => format!("refuse {number}"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_is_written_as_it_is_read() {
        for (text, failure) in [
            ("refuse", Failure::Refuse(111)),
            ("refuse EPERM", Failure::Refuse(1)),
            ("refuse ETIMEDOUT", Failure::Refuse(110)),
            ("refuse EHOSTUNREACH", Failure::Refuse(113)),
            ("reset", Failure::Refuse(104)),
            ("blackhole", Failure::Blackhole),
        ] {
            assert_eq!(Failure::parse(text), Ok(failure), "{text}");
            assert_eq!(failure.words(), text);
        }
        assert_eq!(Failure::parse("refuse ECONNRESET"), Ok(Failure::RESET));
    }

    #[test]
    fn the_numbers_are_linux_own() {
        for &(name, number) in ERRNOS {
            let told = std::io::Error::from_raw_os_error(i32::from(number));
            let kind = format!("{:?}", told.kind());
            let wanted = match name {
                "EPERM" | "EACCES" => "PermissionDenied",
                "ENETDOWN" => "NetworkDown",
                "ENETUNREACH" => "NetworkUnreachable",
                "ECONNABORTED" => "ConnectionAborted",
                "ECONNRESET" => "ConnectionReset",
                "ETIMEDOUT" => "TimedOut",
                "ECONNREFUSED" => "ConnectionRefused",
                "EHOSTUNREACH" => "HostUnreachable",
                // The standard library has no kind for it.
                "EHOSTDOWN" => continue,
                other => panic!("{other} is not compared with anything"),
            };
            assert_eq!(kind, wanted, "{name}");
        }
    }

    #[test]
    fn what_is_no_way_to_fail() {
        for (text, help) in [
            ("", "write `refuse`"),
            ("refuze", "did you mean `refuse`?"),
            ("EPERM", "write `refuse EPERM`"),
            ("refuse ETIMEOUT", "did you mean `ETIMEDOUT`?"),
            ("refuse ENOENT", "write one of `EPERM`"),
            ("refuse 111", "write one of `EPERM`"),
            ("refuse EPERM EACCES", "write `refuse`"),
            ("reset EPERM", "write `refuse`"),
            ("drop", "write `refuse`"),
        ] {
            let wrong = Failure::parse(text).unwrap_err();
            let told = wrong.help.unwrap();
            assert!(told.starts_with(help), "{text}: {told}");
        }
    }
}
