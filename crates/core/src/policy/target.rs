//! What stands after `allow:` or `deny:`.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{PortRange, Target};
use crate::name::{NameError, Pattern};
use crate::path::PathPattern;

/// Why a target cannot be read, and what to write instead.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub(crate) message: String,
    pub(crate) help: Option<String>,
}

fn wrong<T>(message: impl Into<String>, help: &str) -> Result<T, Wrong> {
    let help = (!help.is_empty()).then(|| help.to_owned());
    Err(Wrong {
        message: message.into(),
        help,
    })
}

const FORMS: &str = "a target is a name pattern, an address or a CIDR, each optionally with `:port` or `:first-last`, or `*:port`";
/// The same, and what only a rule may be about.
const RULE_FORMS: &str = "a target is a name pattern, an address or a CIDR, each optionally with `:port` or `:first-last`, or `*:port`, `service:NAME`, or `unix:PATH`";

const DEFAULT: &str = "what no rule mentions, `default: deny` at the top of the policy refuses, and `default: allow` lets pass";

/// What a rule of a policy may be about.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Aim {
    /// Something of the network, or of the file system.
    Target(Target, Option<PortRange>),
    /// Whatever this service provides, as far as it lies on these ports.
    Service(String, Option<PortRange>),
}

/// Read what a rule is about.
pub(super) fn aim(text: &str) -> Result<Aim, Wrong> {
    if let Some(path) = text.strip_prefix("unix:") {
        return socket(path).map(|path| Aim::Target(Target::Unix(path), None));
    }
    if let Some(service) = text.strip_prefix("service:") {
        return parse_service(service).map(|(name, ports)| Aim::Service(name, ports));
    }
    match parse(text) {
        Ok((target, ports)) => Ok(Aim::Target(target, ports)),
        Err(wrong) if wrong.help.as_deref() == Some(FORMS) => Err(Wrong {
            help: Some(RULE_FORMS.to_owned()),
            ..wrong
        }),
        Err(wrong) => Err(wrong),
    }
}

/// A target and its ports as they are written in a policy.
pub(crate) fn written(target: &Target, ports: Option<PortRange>) -> String {
    let address = |net: &IpNet| {
        if net.prefix_len() == net.max_prefix_len() {
            net.addr().to_string()
        } else {
            net.to_string()
        }
    };
    let host = match target {
        Target::Name(pattern) => pattern.to_string(),
        Target::Net(net @ IpNet::V6(_)) if ports.is_some() => format!("[{}]", address(net)),
        Target::Net(net) => address(net),
        Target::Any => "*".to_owned(),
        Target::Unix(path) => format!("unix:{path}"),
    };
    match ports {
        None => host,
        Some(PortRange { first, last }) if first == last => format!("{host}:{first}"),
        Some(PortRange { first, last }) => format!("{host}:{first}-{last}"),
    }
}

/// The path of a unix socket, or several.
pub(super) fn socket(path: &str) -> Result<PathPattern, Wrong> {
    if let Some((before, port)) = path.rsplit_once(':')
        && !port.is_empty()
        && port.bytes().all(|b| b.is_ascii_digit())
    {
        return wrong(
            "a unix socket has no port",
            &format!("write `unix:{before}`"),
        );
    }
    PathPattern::socket(path).or_else(|error| {
        wrong(
            format!("{path:?} is not the path of a unix socket: {error}"),
            "write `unix:/run/docker.sock`, `unix:/run/*/socket`, or `unix:@name` for an abstract one",
        )
    })
}

fn parse_service(text: &str) -> Result<(String, Option<PortRange>), Wrong> {
    let (name, ports) = match text.rsplit_once(':') {
        Some((name, ports)) => (name, Some(parse_ports(ports)?)),
        None => (text, None),
    };
    let odd = |c: char| c.is_whitespace() || c.is_control() || c == ',' || c == ':';
    if name.is_empty() || name.contains(odd) {
        return wrong(
            format!("{name:?} is not the name of a service"),
            "write `service:` and a name from the catalog, such as `service:billing` or `service:billing:443`",
        );
    }
    Ok((name.to_owned(), ports))
}

/// Read a target of the network and its ports.
pub(crate) fn parse(text: &str) -> Result<(Target, Option<PortRange>), Wrong> {
    if text.is_empty() {
        return wrong("the target is empty", FORMS);
    }
    if text.contains(':')
        && let Some((scheme, rest)) = text.split_once("://")
    {
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let host = host.rsplit('@').next().unwrap_or_default();
        return wrong(
            format!("{text:?} is a URL, and only its host can be judged"),
            &match (host, scheme) {
                ("", _) => FORMS.to_owned(),
                (host, "https") if !host.contains(':') => {
                    format!("write `{host}`, or `{host}:443`")
                }
                (host, _) => format!("write `{host}`"),
            },
        );
    }
    let (host, ports) = split_ports(text)?;
    let target = parse_host(host)?;
    let everything = match &target {
        Target::Any => true,
        Target::Net(net) => net.prefix_len() == 0,
        Target::Name(_) | Target::Unix(_) => false,
    };
    if everything && ports.is_none_or(|ports| ports.is_all()) {
        return wrong(format!("{text:?} would match every address"), DEFAULT);
    }
    Ok((target, ports))
}

impl PortRange {
    /// What both have in common; nothing, if they have.
    pub(super) fn within(this: Option<Self>, other: Option<Self>) -> Option<Option<Self>> {
        let (Some(a), Some(b)) = (this, other) else {
            return Some(this.or(other));
        };
        let both = Self {
            first: a.first.max(b.first),
            last: a.last.min(b.last),
        };
        (both.first <= both.last).then_some(Some(both))
    }

    /// Every port that can be written.
    fn is_all(self) -> bool {
        self.first <= Self::ALL.first && self.last == Self::ALL.last
    }
}

/// Part the host from what stands after its `:`.
pub(super) fn split_ports(text: &str) -> Result<(&str, Option<PortRange>), Wrong> {
    if let Some(rest) = text.strip_prefix('[') {
        let Some((address, after)) = rest.split_once(']') else {
            return wrong(
                format!("{text:?} has a `[` without its `]`"),
                "write `[::1]:443`",
            );
        };
        if !address.contains(':') {
            return wrong(
                format!("only IPv6 addresses stand in brackets, {address:?} is none"),
                FORMS,
            );
        }
        let Some(ports) = after.strip_prefix(':') else {
            return if after.is_empty() {
                Ok((address, None))
            } else {
                wrong(
                    format!("{after:?} after the `]` is neither the end nor a port"),
                    "write `[::1]:443` or `[fd00::/8]:443`",
                )
            };
        };
        return Ok((address, Some(parse_ports(ports)?)));
    }
    match text.split_once(':') {
        None => Ok((text, None)),
        // More than one colon: an IPv6 address without brackets, which has no port.
        Some((_, rest)) if rest.contains(':') => Ok((text, None)),
        Some(("", _)) => wrong(
            format!("{text:?} has a port but no destination"),
            "write `*:25` for that port of every address",
        ),
        Some((host, ports)) => Ok((host, Some(parse_ports(ports)?))),
    }
}

fn parse_ports(text: &str) -> Result<PortRange, Wrong> {
    let bad = || Wrong {
        message: format!("{text:?} is neither a port nor a range of ports"),
        help: Some("ports go from 1 to 65535; write `443` or `8000-8999`".to_owned()),
    };
    // str::parse would take a sign.
    let port = |text: &str| match text.parse::<u16>() {
        Ok(port) if port > 0 && text.bytes().all(|b| b.is_ascii_digit()) => Ok(port),
        _ => Err(bad()),
    };
    let (first, last) = match text.split_once('-') {
        None => (port(text)?, port(text)?),
        Some((first, last)) => (port(first)?, port(last)?),
    };
    if first > last {
        return wrong(
            format!("the range {text:?} ends before it begins"),
            &format!("write `{last}-{first}`"),
        );
    }
    Ok(PortRange { first, last })
}

fn parse_host(host: &str) -> Result<Target, Wrong> {
    if host == "*" {
        return Ok(Target::Any);
    }
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(Target::Net(address.to_canonical().into()));
    }
    if let Some((address, length)) = host.split_once('/') {
        if let Ok(address) = address.parse::<IpAddr>() {
            return parse_prefix(host, address, length);
        }
        return wrong(
            format!("{host:?} has a `/`, but {address:?} is no address"),
            "a CIDR is an address and a length, such as `10.20.0.0/16`; of a URL, write the host only",
        );
    }
    if host.contains(':') {
        return wrong(
            format!("{host:?} is not a valid IPv6 address"),
            "an address with a port is written `[::1]:443`",
        );
    }
    Pattern::parse(host).map(Target::Name).or_else(|error| match error {
        NameError::PartialStar => wrong(
            format!("{host:?} is not a name pattern: {error}"),
            "`*.example.com` is everything below, `.example.com` that and the name itself, `a.*.example.com` one label",
        ),
        NameError::Everything => wrong(
            format!("{host:?} is not a name pattern: {error}"),
            DEFAULT,
        ),
        _ => wrong(format!("{host:?} is not a name pattern: {error}"), FORMS),
    })
}

fn parse_prefix(host: &str, address: IpAddr, length: &str) -> Result<Target, Wrong> {
    let most = if address.is_ipv4() { 32 } else { 128 };
    let length = match length.parse::<u8>() {
        Ok(bits) if bits <= most && length.bytes().all(|b| b.is_ascii_digit()) => bits,
        _ => {
            return wrong(
                format!("{host:?} has no valid prefix length"),
                &format!("it goes from 0 to {most} here"),
            );
        }
    };
    // Never fails: the length was checked.
    let net = IpNet::new(address, length).unwrap_or(address.into());
    if net.trunc() != net {
        return wrong(
            format!("{host:?} has bits set beyond its prefix length"),
            &format!(
                "write `{}` for the network, or `{address}` for the one address",
                net.trunc()
            ),
        );
    }
    Ok(Target::Net(canonical(net)))
}

/// The IPv4 network that an IPv4-mapped one stands for: the kernel hands us both as IPv4.
fn canonical(net: IpNet) -> IpNet {
    match net {
        IpNet::V6(v6) if v6.prefix_len() >= 96 => match v6.addr().to_ipv4_mapped() {
            Some(v4) => Ipv4Net::new(v4, v6.prefix_len() - 96).map_or(net, IpNet::V4),
            None => net,
        },
        _ => net,
    }
}

impl Target {
    /// The prefixes that the target stands for; none for names.
    pub fn prefixes(&self) -> Vec<IpNet> {
        match self {
            Self::Name(_) | Self::Unix(_) => Vec::new(),
            Self::Net(net) => vec![*net],
            Self::Any => vec![IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> String {
        match aim(text) {
            Ok(Aim::Service(name, ports)) => match ports {
                Some(ports) => format!("service {name} {}-{}", ports.first, ports.last),
                None => format!("service {name}"),
            },
            Ok(Aim::Target(target, ports)) => {
                let target = match target {
                    Target::Name(pattern) => format!("name {pattern}"),
                    Target::Net(net) => format!("net {net}"),
                    Target::Any => "any".to_owned(),
                    Target::Unix(path) => format!("unix {path}"),
                };
                ports.map_or(target.clone(), |p| {
                    format!("{target} {}-{}", p.first, p.last)
                })
            }
            Err(wrong) => wrong.message,
        }
    }

    #[test]
    fn every_form() {
        for (text, meaning) in [
            ("github.com", "name github.com"),
            ("*.github.com:443", "name *.github.com 443-443"),
            (".github.com:8000-8999", "name .github.com 8000-8999"),
            ("localhost", "name localhost"),
            ("10.1.2.3", "net 10.1.2.3/32"),
            ("10.1.2.3:22", "net 10.1.2.3/32 22-22"),
            ("10.20.0.0/16", "net 10.20.0.0/16"),
            ("10.20.0.0/16:1-1024", "net 10.20.0.0/16 1-1024"),
            ("::1", "net ::1/128"),
            ("fe80::1:443", "net fe80::1:443/128"),
            ("[::1]:443", "net ::1/128 443-443"),
            ("[fd00::/8]:443", "net fd00::/8 443-443"),
            ("fd00::/8", "net fd00::/8"),
            ("::ffff:10.0.0.0/104", "net 10.0.0.0/8"),
            ("::ffff:10.0.0.1", "net 10.0.0.1/32"),
            ("*:25", "any 25-25"),
            ("0.0.0.0/0:25", "net 0.0.0.0/0 25-25"),
            ("service:billing", "service billing"),
            ("service:team/billing:443", "service team/billing 443-443"),
            ("unix:/run/docker.sock", "unix /run/docker.sock"),
            ("unix:/run/*/bus", "unix /run/*/bus"),
            ("unix:@abstract", "unix @abstract"),
        ] {
            assert_eq!(read(text), meaning, "{text}");
        }
    }

    #[test]
    fn a_target_is_written_as_it_is_read() {
        for text in [
            "github.com",
            "*.github.com:443",
            ".github.com:8000-8999",
            "10.1.2.3:22",
            "10.20.0.0/16",
            "::1",
            "[::1]:443",
            "[fd00::/8]:1-1024",
            "*:25",
            "unix:/run/*/bus",
            "unix:@abstract",
        ] {
            let Ok(Aim::Target(target, ports)) = aim(text) else {
                panic!("{text}")
            };
            assert_eq!(written(&target, ports), text);
        }
    }

    #[test]
    fn what_is_no_target() {
        for text in [
            "",
            ":25",
            "*",
            "0.0.0.0/0",
            "::/0",
            "*:1-65535",
            "10.0.0.0/33",
            "10.0.0.1/8",
            "10.0.0.0/+8",
            "a:0",
            "a:65536",
            "a:+1",
            "a:9-1",
            "a:",
            "[::1",
            "[::1]x",
            "[a]:1",
            "https://github.com/x",
            "github.com/x",
            "1:2:3",
            "10.0.0.300",
            "service:",
            "service:a b",
            "service:a:b",
            "service:a:0",
            "unix:",
            "unix:run/docker.sock",
            "unix:/run/docker.sock:80",
            "unix:/run/[",
            "*.*",
            "a-*.b.c",
            "fe80::1%eth0",
        ] {
            assert!(aim(text).is_err(), "{text} is {}", read(text));
        }
    }
}
