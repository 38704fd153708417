//! The order in which services start: `[depends]` first, names second.

use std::collections::{BTreeMap, BTreeSet};

/// A ring of services that wait for each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("[depends] goes round in a circle: {}", .0.join(" -> "))]
pub struct Circle(pub Vec<String>);

/// Sorts `services` so that each comes after those it depends on; names decide between equals.
///
/// A dependency that is not among `services` (it lives at another location) is passed over.
pub fn start_order(
    services: &[String],
    depends: &BTreeMap<String, Vec<String>>,
) -> Result<Vec<String>, Circle> {
    let present: BTreeSet<&str> = services.iter().map(String::as_str).collect();
    let mut done = Vec::new();
    for service in &present {
        visit(service, &present, depends, &mut Vec::new(), &mut done)?;
    }
    Ok(done)
}

fn visit(
    service: &str,
    present: &BTreeSet<&str>,
    depends: &BTreeMap<String, Vec<String>>,
    trail: &mut Vec<String>,
    done: &mut Vec<String>,
) -> Result<(), Circle> {
    if done.iter().any(|name| name == service) {
        return Ok(());
    }
    let seen = trail.iter().position(|name| name == service);
    trail.push(service.to_owned());
    if let Some(start) = seen {
        return Err(Circle(trail.split_off(start)));
    }
    for needed in depends.get(service).into_iter().flatten().filter(|name| present.contains(name.as_str())) {
        visit(needed, present, depends, trail, done)?;
    }
    trail.pop();
    done.push(service.to_owned());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_needed_starts_first() {
        let depends = depends(&[("caddy", &["authelia"]), ("authelia", &["monitoring", "elsewhere"])]);
        let order = start_order(&names(&["caddy", "authelia", "emby", "monitoring"]), &depends);
        assert_eq!(order, Ok(names(&["monitoring", "authelia", "caddy", "emby"])));
    }

    #[test]
    fn a_circle_is_named() {
        let depends = depends(&[("a", &["b"]), ("b", &["c"]), ("c", &["b"])]);
        assert_eq!(start_order(&names(&["a", "b", "c"]), &depends), Err(Circle(names(&["b", "c", "b"]))));
    }

    proptest! {
        #[test]
        fn every_service_comes_once_and_after_its_needs(edges in prop::collection::vec((0usize..12, 0usize..12), 0..40)) {
            let all: Vec<String> = (0..12).map(|n| format!("s{n:02}")).collect();
            let mut depends: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for (from, to) in edges.into_iter().filter(|(from, to)| from > to) {
                depends.entry(all[from].clone()).or_default().push(all[to].clone());
            }
            let order = start_order(&all, &depends).expect("edges only go down");
            prop_assert_eq!(order.len(), all.len());
            let place = |name: &String| order.iter().position(|other| other == name);
            for (service, needs) in &depends {
                for need in needs {
                    prop_assert!(place(need) < place(service));
                }
            }
        }
    }

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    fn depends(list: &[(&str, &[&str])]) -> BTreeMap<String, Vec<String>> {
        list.iter().map(|(name, needs)| ((*name).to_owned(), names(needs))).collect()
    }
}
