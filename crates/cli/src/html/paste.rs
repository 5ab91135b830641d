//! Lines of a policy or a catalog that a reader can take over as they are.
//!
//! Whatever stands in them is somebody's name or argument: what is no plain word is written as a quoted scalar,
//! so that it can neither end its line nor mean something else.

use std::fmt::Write as _;
use std::net::IpAddr;

use blackstart_core::name::Pattern;
use blackstart_core::policy::Day;

use crate::plain::is_invisible;

/// Something to paste.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Paste {
    /// What it is for.
    pub(super) title: &'static str,
    /// Below which key, or into which file.
    pub(super) under: &'static str,
    /// Lines of YAML.
    pub(super) text: String,
}

const RULES: &str = "below rules: in the policy";
const WAIVERS: &str = "below waivers: in the policy";

/// For whom nobody knows yet.
pub(super) const WHO: &str = "WHO";

/// Refuse whatever a service provides.
pub(super) fn refuse_service(service: &str, reason: &str, fix: Option<&str>) -> Option<Paste> {
    let odd = |c: char| c.is_whitespace() || c.is_control() || c == ',' || c == ':';
    if service.is_empty() || service.contains(odd) {
        return None;
    }
    Some(Paste {
        title: "Rule that refuses it",
        under: RULES,
        text: rule(
            &format!("deny: {}", scalar(&format!("service:{service}"))),
            &[],
            reason,
            fix,
        ),
    })
}

/// A rule that was only observed, enforced. `text` is the rule as a report names it.
pub(super) fn enforce(text: &str, reason: Option<&str>, fix: Option<&str>) -> Option<Paste> {
    let target = text.strip_prefix("deny ")?;
    // What else it says stands behind its target, and is for whoever wrote it.
    if target.contains(' ') {
        return None;
    }
    Some(Paste {
        title: "Rule that refuses it",
        under: RULES,
        text: rule(
            &format!("deny: {}", scalar(target)),
            &["mode: enforce"],
            reason.unwrap_or("WHY"),
            fix,
        ),
    })
}

/// Let pass what an allow-list does not mention.
pub(super) fn allow(destination: &str) -> Paste {
    Paste {
        title: "Rule that lets it pass",
        under: RULES,
        text: format!("- allow: {}\n", scalar(destination)),
    }
}

/// An exception for a while. None for what no waiver can be for.
pub(super) fn waiver(
    destination: &str,
    process: Option<&str>,
    owner: Option<&str>,
    until: Option<Day>,
) -> Option<Paste> {
    let of = match destination.strip_prefix("unix:") {
        Some(_) => destination,
        None => {
            let host = host(destination);
            if host.parse::<IpAddr>().is_ok() || Pattern::parse(host).is_err() {
                return None;
            }
            host
        }
    };
    let mut text = format!("- for: {}\n", scalar(of));
    if let Some(process) = process {
        let _ = writeln!(text, "  process: {}", scalar(process));
    }
    let _ = writeln!(text, "  owner: {}", scalar(owner.unwrap_or(WHO)));
    let _ = writeln!(text, "  reason: WHY");
    let _ = writeln!(text, "  expires: {}", until?);
    Some(Paste {
        title: "Waiver, if it must be",
        under: WAIVERS,
        text,
    })
}

/// A service for a destination that has none.
pub(super) fn provide(destination: &str) -> Paste {
    Paste {
        title: "Service that provides it",
        under: "a file of the catalog",
        text: format!(
            "apiVersion: blackstart.dev/v1\nkind: Service\nname: NAME\nowner: {WHO}\nprovides: [{}]\n",
            quoted(destination)
        ),
    }
}

/// A need that no file declares.
pub(super) fn need(service: &str, deploy: bool) -> Paste {
    Paste {
        title: "Need as it was seen",
        under: "below needs: of the service that needs it",
        text: match deploy {
            true => format!("- service: {}\n  for: deploy\n", scalar(service)),
            false => format!("- {}\n", scalar(service)),
        },
    }
}

fn rule(first: &str, also: &[&str], reason: &str, fix: Option<&str>) -> String {
    let mut text = format!("- {first}\n");
    for line in also {
        let _ = writeln!(text, "  {line}");
    }
    let _ = writeln!(text, "  reason: {}", scalar(reason));
    if let Some(fix) = fix {
        let _ = writeln!(text, "  fix: {}", scalar(fix));
    }
    text
}

/// The host of `host:port`, `[address]:port` or `host`.
fn host(destination: &str) -> &str {
    if let Some((address, _)) = destination
        .strip_prefix('[')
        .and_then(|rest| rest.split_once(']'))
    {
        return address;
    }
    match destination.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() && !host.contains(':') => host,
        _ => destination,
    }
}

/// A scalar that YAML reads as this text and nothing else, quoted only where it must be.
fn scalar(text: &str) -> String {
    let letters = text.bytes().any(|byte| byte.is_ascii_alphabetic());
    let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '.' || c == '/');
    let harmless = |c: char| c.is_ascii_alphanumeric() || " ._/-:,'()+=".contains(c);
    let word = letters
        && begins
        && text.chars().all(harmless)
        && !text.contains(": ")
        && !text.contains(" #")
        && !text.ends_with([' ', ':'])
        && !is_other(text);
    if word { text.to_owned() } else { quoted(text) }
}

/// Words that YAML takes for something else than text, and numbers in other bases and forms.
fn is_other(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let words = [
        "true", "false", "null", "yes", "no", "on", "off", "y", "n", ".nan", ".inf",
    ];
    words.contains(&lower.as_str())
        || lower.starts_with(|c: char| c.is_ascii_digit() || c == '.')
            && lower
                .bytes()
                .all(|byte| byte.is_ascii_hexdigit() || b"xo_.:e+-".contains(&byte))
}

/// A double-quoted scalar in which nothing is invisible.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => {
                out.push('\\');
                out.push(letter);
            }
            letter if letter.is_control() || is_invisible(letter) => {
                let code = u32::from(letter);
                let _ = match code {
                    ..=0xffff => write!(out, "\\u{code:04x}"),
                    _ => write!(out, "\\U{code:08x}"),
                };
            }
            letter => out.push(letter),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use blackstart_core::policy::parse;

    use super::*;

    /// Read as what it is to be pasted into.
    fn errors(pastes: &[Paste]) -> Vec<String> {
        let below = |under: &str| -> String {
            let those = pastes.iter().filter(|paste| paste.under == under);
            those
                .flat_map(|paste| paste.text.lines())
                .map(|line| format!("  {line}\n"))
                .collect()
        };
        let text = format!(
            "apiVersion: blackstart.dev/v1\nkind: Policy\nmode: observe\ndefault: allow\nrules:\n{}waivers:\n{}",
            below(RULES),
            below(WAIVERS)
        );
        let parsed = parse(&text, "pasted.yaml");
        let wrong = parsed.map(|_| Vec::new()).unwrap_or_else(|wrong| wrong);
        let messages = wrong.iter();
        messages
            .map(|it| format!("{}: {text}", it.message))
            .collect()
    }

    #[test]
    fn what_is_to_be_pasted_is_a_policy() {
        let day = Day::parse("2026-12-31");
        let hostile = "x\": }\n- allow: \"*:1\"\u{202e}#";
        let pastes: Vec<Paste> = [
            refuse_service(
                "github",
                "closes a loop: mysql # needs it",
                Some("use: the mirror"),
            ),
            refuse_service("1", hostile, Some(hostile)),
            enforce("deny .github.com", Some("it's served by this"), None),
            enforce("deny *:25", None, Some(hostile)),
            enforce("deny 10.0.0.0/8", Some("true"), Some("- no")),
            enforce("deny unix:/run/docker.sock", Some("0x1f"), None),
            Some(allow("mirror.internal:443")),
            Some(allow("[2001:db8::1]:443")),
            Some(allow("10.0.0.1:80")),
            waiver("github.com:443", Some("curl"), Some("team-db"), day),
            waiver("a.example.com", Some("odd $ name"), Some(hostile), day),
            waiver("unix:/run/docker.sock", None, None, day),
        ]
        .into_iter()
        .map(|paste| paste.expect("there is one for each"))
        .collect();
        assert_eq!(errors(&pastes), Vec::<String>::new());
    }

    #[test]
    fn nothing_is_offered_that_could_not_hold() {
        let day = Day::parse("2026-12-31");
        assert_eq!(waiver("10.0.0.1:443", None, None, day), None);
        assert_eq!(waiver("[::1]:443", None, None, day), None);
        assert_eq!(waiver("a b.example.com", None, None, day), None);
        assert_eq!(waiver("github.com", None, None, None), None);
        assert_eq!(refuse_service("a, b", "", None), None);
        assert_eq!(enforce("default", None, None), None);
        assert_eq!(enforce("deny .github.com for curl", None, None), None);
    }

    #[test]
    fn a_scalar_is_quoted_where_it_must_be() {
        for text in [
            ".github.com",
            "service:github",
            "mirror.internal:443",
            "it's here",
            "/run/x",
        ] {
            assert_eq!(scalar(text), text);
        }
        for text in [
            "",
            "*:25",
            "[::1]:443",
            "no",
            "0x1f",
            "1e9",
            "12",
            "10.0",
            "- a",
            "a: b",
            "a #b",
            "a:",
            "ä",
        ] {
            assert!(scalar(text).starts_with('"'), "{text}");
        }
        assert_eq!(quoted("a\u{202e}b\n\"\\"), r#""a\u202eb\u000a\"\\""#);
    }
}
