//! Services of Kubernetes: by which names and addresses each is reached.

use super::{File, TIER, below, get, items, text};
use crate::document::Node;

/// Who owns a service, by convention (a8r.io) or for us alone.
const OWNERS: [&str; 2] = ["blackstart.dev/owner", "a8r.io/owner"];

/// Where nobody says otherwise.
const CLUSTER_DOMAIN: &str = "cluster.local";

impl File<'_, '_> {
    pub(super) fn kubernetes(&mut self, root: &Node) {
        match text(get(root, "kind")) {
            Some("Service") => self.kubernetes_service(root),
            Some(kind) if kind.ends_with("List") => {
                for item in items(get(root, "items")) {
                    match text(get(item, "kind")) {
                        // A list of one kind does not repeat it.
                        Some("Service") => self.kubernetes_service(item),
                        None if kind == "ServiceList" => self.kubernetes_service(item),
                        other => self.other_kind(item, other),
                    }
                }
            }
            other => self.other_kind(root, other),
        }
    }

    fn other_kind(&mut self, node: &Node, kind: Option<&str>) {
        let message = match kind {
            Some(kind) => format!("a {kind} is left out: only Services say how they are reached"),
            None => "an object without `kind` is left out".to_owned(),
        };
        let help = Some("export them with `kubectl get services -A -o json`".to_owned());
        let at = node.span.start..node.span.start;
        match kind {
            Some(_) => self.reader.warning(&at, message, help),
            None => self.reader.error(&at, message, help),
        }
    }

    fn kubernetes_service(&mut self, node: &Node) {
        let at = node.span.start..node.span.start;
        let Some(name) = text(below(node, &["metadata", "name"])) else {
            self.reader
                .error(&at, "a Service has no `metadata.name`", None);
            return;
        };
        let namespace = text(below(node, &["metadata", "namespace"])).unwrap_or("default");
        let domain = self.options.cluster_domain.as_deref();
        let full = format!(
            "{name}.{namespace}.svc.{}",
            domain.unwrap_or(CLUSTER_DOMAIN)
        );
        let spec = |key| below(node, &["spec", key]);
        let headless = text(spec("clusterIP")) == Some("None");
        let mut hosts = vec![if headless {
            // Each of its pods has a name below.
            format!(".{full}")
        } else {
            full
        }];
        let mut addresses: Vec<&str> = Vec::new();
        match items(spec("clusterIPs")) {
            [] => addresses.extend(text(spec("clusterIP"))),
            several => addresses.extend(several.iter().filter_map(|ip| text(Some(ip)))),
        }
        addresses.extend(
            items(spec("externalIPs"))
                .iter()
                .filter_map(|ip| text(Some(ip))),
        );
        for ingress in items(below(node, &["status", "loadBalancer", "ingress"])) {
            addresses.extend(text(get(ingress, "ip")));
            hosts.extend(text(get(ingress, "hostname")).map(str::to_owned));
        }
        for address in addresses {
            match address.parse::<std::net::IpAddr>() {
                Ok(std::net::IpAddr::V4(ip)) => hosts.push(ip.to_string()),
                Ok(std::net::IpAddr::V6(ip)) => hosts.push(format!("[{ip}]")),
                // `None` and the empty text say that it has none.
                Err(_) => {}
            }
        }
        let mut provides = Vec::new();
        let ports = items(spec("ports"));
        for port in ports {
            let Some(number) = text(get(port, "port")).filter(|port| port.parse::<u16>().is_ok())
            else {
                self.reader
                    .error(&port.span, "a port of a Service has no number", None);
                continue;
            };
            // TCP goes without saying, so that what a person wrote of the same port is the same endpoint.
            let protocol = match text(get(port, "protocol")).unwrap_or("TCP") {
                "TCP" => None,
                "UDP" => Some("udp"),
                other => {
                    let message = format!("port {number} is left out: its protocol is {other}");
                    self.reader.warning(&port.span, message, None);
                    continue;
                }
            };
            for host in &hosts {
                provides.extend(self.provided(format!("{host}:{number}"), protocol, &port.span));
            }
        }
        if ports.is_empty() {
            for host in &hosts {
                let host = host.trim_start_matches('[').trim_end_matches(']');
                provides.extend(self.provided(host.to_owned(), None, &node.span));
            }
        }
        let annotation = |key| below(node, &["metadata", "annotations", key]);
        let owner = OWNERS.iter().find_map(|key| text(annotation(key)));
        let tier = annotation(TIER).and_then(|node| self.tier(node));
        let name = self.met(&format!("{namespace}/{name}"), &node.span);
        let service = self.found.service(&name);
        service.provides.extend(provides);
        service.owner = service.owner.take().or(owner.map(str::to_owned));
        service.tier = service.tier.or(tier);
    }
}
