//! Where something is told.

use std::fmt;
use std::path::{Path, PathBuf};

/// Where something is told. Its [`Display`](fmt::Display) never shows a secret: of a URL only its host.
#[derive(Clone, PartialEq, Eq)]
pub enum Target {
    /// JSON lines, to a file or a named pipe.
    File(PathBuf),
    /// The journal, by its socket; none for the usual one.
    Journald(Option<PathBuf>),
    /// A text file for Prometheus' node exporter.
    Metrics(PathBuf),
    /// Over HTTP: a collector of OpenTelemetry.
    Otlp(Sink),
    /// Over HTTP: an alert.
    Alert(Form, Sink),
}

/// In which form something is sent over HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// A document of our own.
    Webhook,
    /// An incoming webhook of Slack, or of what understands the same.
    Slack,
    /// Prometheus' Alertmanager, version 2 of its interface.
    Alertmanager,
    /// A trace, in OpenTelemetry's JSON.
    Traces,
    /// Log records, in the same.
    Logs,
}

/// Where an alert goes. The URL is a secret: whoever has it can write there.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sink {
    /// There.
    Url(String),
    /// To the URL that this file has, whenever something is sent.
    UrlIn(PathBuf),
}

const KINDS: &str =
    "file:PATH, journald, metrics:PATH, webhook:URL, slack:URL, alertmanager:URL or otlp:URL";

impl Form {
    /// As it is typed.
    pub fn word(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Slack => "slack",
            Self::Alertmanager => "alertmanager",
            Self::Traces | Self::Logs => "otlp",
        }
    }

    /// What belongs behind the URL that was typed, unless it is there.
    pub fn path(self) -> &'static str {
        match self {
            Self::Webhook | Self::Slack => "",
            Self::Alertmanager => "/api/v2/alerts",
            Self::Traces => "/v1/traces",
            Self::Logs => "/v1/logs",
        }
    }

    /// Below this nobody is called.
    pub(super) fn least(self) -> crate::report::Severity {
        match self {
            Self::Webhook | Self::Traces | Self::Logs => crate::report::Severity::Info,
            Self::Slack | Self::Alertmanager => crate::report::Severity::Warning,
        }
    }
}

impl Target {
    /// What was typed; relative paths are meant from `here`. The error says what is wrong and what to write, and nothing
    /// of the URL.
    pub fn parse(text: &str, here: &Path) -> Result<Self, String> {
        let (kind, rest) = match text.split_once(':') {
            Some((kind, rest)) => (kind, Some(rest).filter(|rest| !rest.is_empty())),
            None => (text, None),
        };
        let path = |what: &str| match rest {
            Some(path) => Ok(here.join(path)),
            None => Err(format!("write `{kind}:PATH`: {what}")),
        };
        let sink = || match rest {
            Some(rest) => Sink::parse(kind, rest, here),
            None => Err(format!(
                "write `{kind}:URL`, or `{kind}:@FILE` for the URL that a file has"
            )),
        };
        match kind {
            "file" => Ok(Self::File(path("a file, or a named pipe")?)),
            "metrics" => {
                let path = path("a file in the directory that the node exporter collects")?;
                match path.extension().is_some_and(|ending| ending == "prom") {
                    true => Ok(Self::Metrics(path)),
                    false => {
                        Err("the node exporter only collects files that end in `.prom`".to_owned())
                    }
                }
            }
            "journald" => Ok(Self::Journald(rest.map(|path| here.join(path)))),
            "webhook" => Ok(Self::Alert(Form::Webhook, sink()?)),
            "slack" => Ok(Self::Alert(Form::Slack, sink()?)),
            "alertmanager" => Ok(Self::Alert(Form::Alertmanager, sink()?)),
            "otlp" => Ok(Self::Otlp(sink()?)),
            "http" | "https" => Err(format!(
                "say in which form: {KINDS}; for a document of our own, put `webhook:` before the URL"
            )),
            // It may be a secret that is mistyped.
            _ => Err(format!("it is none of {KINDS}")),
        }
    }

    /// What tells it apart from others in what is kept. Of a URL it has a hash only.
    pub fn key(&self) -> String {
        let of_sink = |word: &str, sink: &Sink| match sink {
            Sink::Url(url) => format!("{word}:{:016x}", fingerprint(url)),
            Sink::UrlIn(path) => format!("{word}:@{}", path.display()),
        };
        match self {
            Self::File(path) => format!("file:{}", path.display()),
            Self::Journald(None) => "journald".to_owned(),
            Self::Journald(Some(path)) => format!("journald:{}", path.display()),
            Self::Metrics(path) => format!("metrics:{}", path.display()),
            Self::Otlp(sink) => of_sink("otlp", sink),
            Self::Alert(form, sink) => of_sink(form.word(), sink),
        }
    }
}

/// 64-bit FNV-1a: the same in every version and on every host.
pub fn fingerprint(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

impl Sink {
    fn parse(kind: &str, text: &str, here: &Path) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix('@') {
            return match path {
                "" => Err(format!("write the file's name after `{kind}:@`")),
                path => Ok(Self::UrlIn(here.join(path))),
            };
        }
        Self::checked(text).map(|url| Self::Url(url.to_owned()))
    }

    /// The text as a URL that something can be sent to. The error shows nothing of it.
    pub fn checked(text: &str) -> Result<&str, String> {
        let text = text.trim();
        let rest = text
            .strip_prefix("https://")
            .or_else(|| text.strip_prefix("http://"));
        let Some(rest) = rest else {
            return Err("a URL begins with https:// or http://".to_owned());
        };
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        if host.is_empty() || host.starts_with(':') {
            return Err("the URL has no host".to_owned());
        }
        match text.bytes().all(|byte| byte.is_ascii_graphic()) {
            true => Ok(text),
            false => Err("a URL has neither blanks nor letters outside of ASCII".to_owned()),
        }
    }

    /// The URL's scheme and host, for whoever is to know where something goes, and not to be able to write there.
    pub fn host(url: &str) -> String {
        let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        format!("{scheme}://{host}/…")
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Journald(None) => write!(f, "journald"),
            Self::Journald(Some(path)) => write!(f, "journald:{}", path.display()),
            Self::Metrics(path) => write!(f, "metrics:{}", path.display()),
            Self::Otlp(sink) => write!(f, "otlp:{sink}"),
            Self::Alert(form, sink) => write!(f, "{}:{sink}", form.word()),
        }
    }
}

impl fmt::Display for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => f.write_str(&Self::host(url)),
            Self::UrlIn(path) => write!(f, "@{}", path.display()),
        }
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({self})")
    }
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sink({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Target, String> {
        Target::parse(text, Path::new("/here"))
    }

    #[test]
    fn what_is_typed_is_read() {
        for (text, shown) in [
            ("file:out.jsonl", "file:/here/out.jsonl"),
            ("file:/var/log/x", "file:/var/log/x"),
            ("journald", "journald"),
            ("journald:/run/j", "journald:/run/j"),
            ("metrics:/m/b.prom", "metrics:/m/b.prom"),
            ("webhook:@url", "webhook:@/here/url"),
            (
                "alertmanager:http://am:9093",
                "alertmanager:http://am:9093/…",
            ),
        ] {
            assert_eq!(parse(text).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn a_url_is_never_shown() {
        let target = parse("slack:https://user:hidden@hooks.example/T0/hidden?x=hidden").unwrap();
        for shown in [target.to_string(), format!("{target:?}"), target.key()] {
            assert!(!shown.contains("hidden"), "{shown}");
        }
        for wrong in [
            "slak:https://hooks.example/hidden",
            "https://hooks.example/hidden",
            "slack:hooks.example/hidden",
            "webhook:https://hooks.example/hid den",
            "webhook:https:///hidden",
            "hidden",
        ] {
            let error = parse(wrong).unwrap_err();
            assert!(!error.contains("hid"), "{error}");
        }
    }

    #[test]
    fn what_is_missing_is_told() {
        for wrong in [
            "file",
            "file:",
            "metrics:x",
            "metrics:",
            "slack",
            "webhook:@",
            "",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
