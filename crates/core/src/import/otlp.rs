//! Metrics of the OpenTelemetry Collector's service graph connector, in OTLP's JSON form: the counter of requests
//! has the attributes `client` and `server`.

use super::{File, below, get, items, text};
use crate::document::Node;

/// The counter. Some exporters write dots.
const COUNTER: &str = "traces_service_graph_request_total";

impl File<'_, '_> {
    pub(super) fn otlp(&mut self, root: &Node) {
        let Some(resources) = get(root, "resourceMetrics") else {
            let (message, help) = if get(root, "resourceSpans").is_some() {
                (
                    "the file has spans, and no metrics",
                    "let the collector's service graph connector make metrics of them",
                )
            } else {
                (
                    "the file has no `resourceMetrics`",
                    "it is what the collector's file exporter writes for metrics: OTLP as JSON",
                )
            };
            self.reader
                .error(&root.span, message, Some(help.to_owned()));
            return;
        };
        let scopes = items(Some(resources))
            .iter()
            .flat_map(|resource| items(get(resource, "scopeMetrics")));
        let metrics = scopes.flat_map(|scope| items(get(scope, "metrics")));
        let mut any = false;
        for metric in metrics {
            let is_counter = |name: &str| name.replace('.', "_") == COUNTER;
            if !text(get(metric, "name")).is_some_and(is_counter) {
                continue;
            }
            any = true;
            for point in items(below(metric, &["sum", "dataPoints"])) {
                let (client, server) = (attribute(point, "client"), attribute(point, "server"));
                let (Some(client), Some(server)) = (client, server) else {
                    let message = "a data point has no attributes `client` and `server`";
                    self.reader.error(&point.span, message, None);
                    continue;
                };
                let by = self.met(client, &point.span);
                let service = self.met(server, &point.span);
                self.need(by, service, &point.span);
            }
        }
        if !any {
            // Of a file of many exports not each has the counter.
            self.reader.warning(
                &(root.span.start..root.span.start),
                format!("no metric here is called `{COUNTER}`"),
                Some("it comes from the collector's service graph connector".to_owned()),
            );
        }
    }
}

fn attribute<'n>(point: &'n Node, key: &str) -> Option<&'n str> {
    let of = |attribute: &&Node| text(get(attribute, "key")) == Some(key);
    let attribute = items(get(point, "attributes")).iter().find(of)?;
    text(below(attribute, &["value", "stringValue"]))
}
