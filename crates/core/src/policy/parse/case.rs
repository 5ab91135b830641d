//! One test of a policy.

use std::net::IpAddr;
use std::ops::Range;

use super::super::target::{self, Wrong};
use super::super::{Case, Destination};
use super::File;
use super::rule::PROTOCOLS;
use crate::document::Node;
use crate::name::{Name, Pattern};
use crate::record::Verdict;

pub(in super::super) const KEYS: &[&str] = &[
    "to", "address", "process", "ancestor", "protocol", "expect", "rule",
];
pub(super) const SHAPE: &str = "a test is written `- { to: github.com:443, expect: deny }`";
pub(in super::super) const VERDICTS: &[(&str, Verdict)] = &[
    ("allow", Verdict::Allow),
    ("deny", Verdict::Deny),
    ("would_deny", Verdict::WouldDeny),
    ("waived", Verdict::Waived),
];

impl File<'_> {
    pub(super) fn case(&mut self, item: Node) -> Option<Case> {
        let start = item.span.start;
        let pairs = self.pairs(item, "a test", SHAPE)?;
        let before = self.reader.diagnostics.len();
        let keys = self.reader.keys(pairs, KEYS, "a test");
        if self.reader.diagnostics.len() == before {
            for key in ["to", "expect"] {
                if !keys.iter().any(|(name, ..)| *name == key) {
                    let message = format!("`{key}` is missing in this test");
                    self.reader
                        .error(&(start..start), message, Some(SHAPE.to_owned()));
                }
            }
        }
        let (mut to, mut expect) = (None, None);
        let (mut process, mut ancestor, mut rule) = (None, None, None);
        let mut address: Option<(IpAddr, Range<usize>)> = None;
        let mut protocol = None;
        for (key, _, node) in keys {
            let span = node.span.clone();
            match key {
                "to" => {
                    if let Some(text) = self.reader.text(key, &node) {
                        match destination(text) {
                            Ok((destination, port)) => {
                                to = Some((destination, port, text.to_owned(), self.place(&span)));
                            }
                            Err(Wrong { message, help }) => self.reader.error(&span, message, help),
                        }
                    }
                }
                "address" => {
                    let text = self.reader.text(key, &node);
                    match text.map(|text| (text, text.parse::<IpAddr>())) {
                        None => {}
                        Some((_, Ok(found))) => address = Some((found.to_canonical(), span)),
                        Some((text, Err(_))) => {
                            let help =
                                "write the one address that the name leads to, without a port";
                            let message = format!("{text:?} is not an address");
                            self.reader.error(&span, message, Some(help.to_owned()));
                        }
                    }
                }
                "process" => process = self.word(key, &node),
                "ancestor" => ancestor = self.word(key, &node),
                "protocol" => {
                    let found = self.reader.choice(key, &node, PROTOCOLS);
                    protocol = found.map(|protocol| (protocol, span));
                }
                "expect" => expect = self.reader.choice(key, &node, VERDICTS),
                "rule" => rule = self.word(key, &node),
                _ => {}
            }
        }
        let (to, port, text, place) = to?;
        if let Some((_, span)) = &address
            && !matches!(to, Destination::Name(_))
        {
            let message = "only a name leads to an address";
            let help = "remove `address`, or write the name under `to`".to_owned();
            self.reader.error(span, message, Some(help));
        }
        if let Some((_, span)) = &protocol
            && matches!(to, Destination::Unix(_))
        {
            let help = "remove `protocol`".to_owned();
            self.reader
                .error(span, "a unix socket has no protocol", Some(help));
        }
        Some(Case {
            to,
            port,
            address: address.map(|(address, _)| address),
            process,
            ancestor,
            protocol: protocol.map(|(protocol, _)| protocol),
            expect: expect?,
            rule,
            text,
            place,
        })
    }
}

impl Destination {
    /// Read a destination and its port as a test writes them; or what is wrong, and what to write.
    pub fn parse(text: &str) -> Result<(Self, Option<u16>), String> {
        destination(text).map_err(|Wrong { message, help }| match help {
            Some(help) => format!("{message}; {help}"),
            None => message,
        })
    }
}

fn destination(text: &str) -> Result<(Destination, Option<u16>), Wrong> {
    let forms = "write a name or an address, with or without `:port`, or `unix:PATH`";
    let wrong = |message| {
        Err(Wrong {
            message,
            help: Some(forms.to_owned()),
        })
    };
    if let Some(path) = text.strip_prefix("unix:") {
        target::socket(path)?;
        return if path.contains(['*', '?', '[', '{']) {
            wrong(format!(
                "{path:?} is a pattern, and an attempt reaches for one socket"
            ))
        } else {
            Ok((Destination::Unix(path.to_owned()), None))
        };
    }
    if text.starts_with("service:") {
        return wrong(format!(
            "{text:?} is a service, and an attempt reaches for a name or an address"
        ));
    }
    let (host, ports) = target::split_ports(text)?;
    let port = match ports {
        Some(ports) if ports.first != ports.last => {
            return wrong(format!(
                "{text:?} has a range of ports, and an attempt has one"
            ));
        }
        Some(ports) => Some(ports.first),
        None => None,
    };
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok((Destination::Address(address.to_canonical()), port));
    }
    // What a pattern may not hold is a mistake here, too.
    match (Pattern::parse(host), Name::parse(host)) {
        (Ok(pattern), Ok(name)) if Pattern::exact(&name).as_ref() == Some(&pattern) => {
            Ok((Destination::Name(name), port))
        }
        (Ok(_), _) => wrong(format!(
            "{host:?} is a pattern, and an attempt reaches for one name"
        )),
        (Err(_), _) if host.contains('/') => {
            wrong(format!("{host:?} is neither a name nor one address"))
        }
        (Err(error), _) => wrong(format!("{host:?} is not a name: {error}")),
    }
}
