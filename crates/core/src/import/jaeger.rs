//! `{"data": [{"parent": "frontend", "child": "cart", "callCount": 7}]}`, as `/api/dependencies` answers.

use super::{File, get, text};
use crate::document::{Node, Value};

const FORM: &str =
    "it is what Jaeger's `/api/dependencies` answers: {\"data\": [{\"parent\": …, \"child\": …}]}";

impl File<'_, '_> {
    pub(super) fn jaeger(&mut self, root: &Node) {
        let list = match &root.value {
            Value::Sequence(_) => Some(root),
            _ => get(root, "data"),
        };
        let items = match list.map(|list| &list.value) {
            Some(Value::Sequence(items)) => items.as_slice(),
            // What Jaeger answers where it knows of no dependency.
            Some(Value::Null) => &[],
            _ => {
                let message = "the file has no list of dependencies";
                self.reader
                    .error(&root.span, message, Some(FORM.to_owned()));
                return;
            }
        };
        for item in items {
            let (parent, child) = (text(get(item, "parent")), text(get(item, "child")));
            let (Some(parent), Some(child)) = (parent, child) else {
                let message = "a dependency names its `parent` and its `child`";
                self.reader
                    .error(&item.span, message, Some(FORM.to_owned()));
                continue;
            };
            let by = self.met(parent, &item.span);
            let service = self.met(child, &item.span);
            self.need(by, service, &item.span);
        }
    }
}
