//! What an agent tells of itself, for Prometheus' node exporter.

use std::collections::BTreeMap;
use std::path::Path;

use prometheus::core::Collector;
use prometheus::{
    Encoder as _, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::place::Place;
use crate::{queue, spool};

/// What an agent came to since it was started, and how it stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AgentSums {
    /// When it was started, in seconds since the epoch.
    pub started: i64,
    /// Runs that are guarded now.
    pub guards: u64,
    /// Guards that are loaded for the next calls.
    pub spares: u64,
    /// Runs that began.
    pub began: u64,
    /// Runs that are over.
    pub over: u64,
    /// Runs of an earlier agent that it looks after.
    pub taken_up: u64,
    /// Calls that were refused, by why.
    pub refused: BTreeMap<&'static str, u64>,
    /// What of its own failed.
    pub warnings: u64,
    /// Messages that wait to be sent over the network.
    pub to_send: u64,
    /// What waits to be written on this host.
    pub to_write: u64,
}

impl AgentSums {
    /// With what waits below `state`.
    pub fn with_waiting(mut self, state: &Path) -> Self {
        if let Some(place) = Place::existing(state) {
            self.to_send = spool::entries(&place).map_or(0, |it| it.len() as u64);
            self.to_write = queue::all(&place).len() as u64;
        }
        self
    }

    /// As the node exporter reads it.
    pub fn exposition(&self) -> Result<String, prometheus::Error> {
        let Self {
            started,
            guards,
            spares,
            began,
            over,
            taken_up,
            refused,
            warnings,
            to_send,
            to_write,
        } = self;
        let all = Registry::new();
        let named = |name: &str| format!("blackstart_agent_{name}");
        let add = |one: Box<dyn Collector>| all.register(one);
        let gauge = |name: &str, help: &str, value: i64| {
            let one = IntGauge::new(named(name), help)?;
            one.set(value);
            add(Box::new(one))
        };
        let counter = |name: &str, help: &str, value: u64| {
            let one = IntCounter::new(named(name), help)?;
            one.inc_by(value);
            add(Box::new(one))
        };
        gauge(
            "start_time_seconds",
            "When the agent was started; counters begin anew then.",
            *started,
        )?;
        gauge("guards", "Runs that are guarded now.", amount(*guards))?;
        gauge(
            "spares_ready",
            "Guards that are loaded for the next calls.",
            amount(*spares),
        )?;
        counter("runs_began_total", "Runs that began.", *began)?;
        counter("runs_over_total", "Runs that are over.", *over)?;
        counter(
            "runs_taken_up_total",
            "Runs of an earlier agent that this one looks after.",
            *taken_up,
        )?;
        counter(
            "warnings_total",
            "What of the agent's own failed.",
            *warnings,
        )?;
        let calls = IntCounterVec::new(
            Opts::new(
                named("calls_refused_total"),
                "Calls that were refused: unknown (who calls cannot be told), not_permitted, too_many, order (what was asked for), host (what the host lacks, or where something failed).",
            ),
            &["reason"],
        )?;
        for (reason, count) in refused {
            calls.with_label_values(&[*reason]).inc_by(*count);
        }
        add(Box::new(calls))?;
        let waiting = IntGaugeVec::new(
            Opts::new(
                named("notifications_waiting"),
                "What others are to be told and were not yet: to be sent over the network, or written on this host.",
            ),
            &["to_be"],
        )?;
        waiting.with_label_values(&["sent"]).set(amount(*to_send));
        waiting
            .with_label_values(&["written"])
            .set(amount(*to_write));
        add(Box::new(waiting))?;
        let mut text = Vec::new();
        TextEncoder::new().encode(&all.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

fn amount(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_told_as_prometheus_reads_it() {
        let sums = AgentSums {
            guards: 3,
            refused: BTreeMap::from([("too_many", 2)]),
            to_send: 5,
            ..AgentSums::default()
        };
        let text = sums.exposition().unwrap();
        for line in [
            "# TYPE blackstart_agent_guards gauge\n",
            "blackstart_agent_guards 3\n",
            "# TYPE blackstart_agent_calls_refused_total counter\n",
            "blackstart_agent_calls_refused_total{reason=\"too_many\"} 2\n",
            "blackstart_agent_notifications_waiting{to_be=\"sent\"} 5\n",
            "blackstart_agent_notifications_waiting{to_be=\"written\"} 0\n",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }
}
