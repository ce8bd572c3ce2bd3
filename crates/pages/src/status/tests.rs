use super::*;

fn node(id: &str, region: &str) -> Node {
    Node {
        id: id.to_owned(),
        region: (!region.is_empty()).then(|| region.to_owned()),
        version: "1.0.0".to_owned(),
        uptime: Some(Duration::from_secs(600)),
        databases: Databases::default(),
    }
}

fn probe(from: &str, to: &str, age: u64, latency: Option<u64>) -> Probe {
    Probe {
        from: from.to_owned(),
        to: to.to_owned(),
        age: Duration::from_secs(age),
        latency: latency.map(Duration::from_millis),
    }
}

/// Nodes a, b, c in regions x, x, y; all ways take 10 ms, but for those given.
fn three(changed: Vec<Probe>) -> View {
    let nodes = vec![node("a", "x"), node("b", "x"), node("c", "y")];
    let mut probes: Vec<Probe> = Vec::new();
    for from in ["a", "b", "c"] {
        for to in ["a", "b", "c"] {
            if !changed.iter().any(|probe| probe.from == from && probe.to == to) {
                probes.push(probe(from, to, 1, Some(10)));
            }
        }
    }
    View { nodes, probes: [probes, changed].concat() }
}

fn statuses(report: &Report) -> Vec<Status> {
    report.nodes.iter().map(|node| node.status).collect()
}

fn way(report: &Report, from: &str, to: &str) -> Status {
    report.pairs.iter().find(|pair| pair.from == from && pair.to == to).unwrap().status
}

/// http_and_ops 62
#[test]
fn one_slow_link_keeps_a_node_ok() {
    let report = three(vec![probe("a", "b", 1, Some(1001))]).assess();
    assert_eq!(statuses(&report), [Status::Ok; 3]);
    assert_eq!(way(&report, "a", "b"), Status::Slow);
    assert_eq!(way(&three(vec![probe("a", "b", 1, Some(1000))]).assess(), "a", "b"), Status::Ok);
    let slow = vec![probe("a", "b", 1, Some(1001)), probe("a", "c", 1, Some(2000))];
    assert_eq!(statuses(&three(slow).assess()), [Status::Slow, Status::Ok, Status::Ok]);
}

/// http_and_ops 62
#[test]
fn a_node_that_most_cannot_reach_is_unreachable() {
    let report = three(vec![probe("a", "c", 1, None), probe("b", "c", 1, None)]).assess();
    assert_eq!(statuses(&report), [Status::Ok, Status::Ok, Status::Unreachable]);
    assert_eq!(report.status, Status::Unreachable);
    let one = three(vec![probe("a", "c", 1, None)]).assess();
    assert_eq!(statuses(&one), [Status::Ok, Status::Ok, Status::Slow]);
}

/// http_and_ops 62
#[test]
fn a_pair_unseen_for_31_seconds_is_stale() {
    let report = three(vec![probe("a", "b", 31, Some(5)), probe("a", "c", 30, Some(5))]).assess();
    assert_eq!((way(&report, "a", "b"), way(&report, "a", "c")), (Status::Stale, Status::Ok));
    assert_eq!(statuses(&report), [Status::Slow, Status::Ok, Status::Ok]);
    // What was last seen failing is stale too: nobody knows.
    let both = three(vec![probe("a", "b", 31, None), probe("a", "c", 40, Some(5))]).assess();
    assert_eq!((statuses(&both)[0], way(&both, "a", "b")), (Status::Stale, Status::Stale));
}

#[test]
fn what_was_never_seen_is_loading_and_then_stale() {
    let mut view = three(Vec::new());
    view.probes.retain(|probe| probe.from != "c");
    assert_eq!(view.assess().nodes[2].status, Status::Stale);
    view.nodes[2].uptime = Some(Duration::from_secs(30));
    assert_eq!(view.assess().nodes[2].status, Status::Loading);
    view.nodes[2].uptime = Some(Duration::from_secs(31));
    assert_eq!(way(&view.assess(), "c", "a"), Status::Stale);
    view.nodes[2].uptime = None;
    assert_eq!(way(&view.assess(), "c", "a"), Status::Stale);
    view.nodes[0].uptime = Some(Duration::from_secs(2));
    assert_eq!(
        way(&view.assess(), "c", "b"),
        Status::Loading,
        "who tells has not had the time to hear of it"
    );
    assert_eq!(View::default().assess().status, Status::Loading);
}

#[test]
fn nodes_need_not_tell_of_themselves() {
    let mut view = three(Vec::new());
    view.probes.retain(|probe| probe.from != probe.to);
    let report = view.assess();
    assert_eq!((statuses(&report), report.pairs.len()), (vec![Status::Ok; 3], 6));
    let alone = View { nodes: vec![node("a", "x")], probes: Vec::new() };
    assert_eq!((alone.assess().status, alone.assess().regions.len()), (Status::Loading, 0));
}

/// http_and_ops 62
#[test]
fn regions_average_what_was_answered() {
    let changed = vec![probe("a", "c", 1, Some(30)), probe("b", "c", 1, None)];
    let report = three(changed).assess();
    let region = |from: &str, to: &str| {
        report
            .regions
            .iter()
            .find(|region| region.from.as_deref() == Some(from) && region.to.as_deref() == Some(to))
            .unwrap()
    };
    assert_eq!(report.regions.len(), 4);
    assert_eq!(region("x", "y").latency_ms, Some(30.0));
    assert_eq!(region("x", "y").status, Status::Unreachable, "as many fail as not");
    assert_eq!((region("x", "x").latency_ms, region("x", "x").status), (Some(10.0), Status::Ok));
    let none = three(vec![probe("a", "c", 1, None), probe("b", "c", 1, None)]).assess();
    assert!(
        none.regions.iter().any(|region| region.to.as_deref() == Some("y") && region.latency_ms.is_none())
    );
}

#[test]
fn databases_that_do_not_answer_show() {
    let mut view = View { nodes: vec![node("a", "")], probes: vec![probe("a", "a", 0, Some(0))] };
    let mut status = |connected, failing| {
        view.nodes[0].databases = Databases { connected, failing };
        view.assess().status
    };
    assert_eq!(status(0, 0), Status::Ok);
    assert_eq!(status(3, 0), Status::Ok);
    assert_eq!(status(3, 1), Status::Slow);
    assert_eq!(status(0, 1), Status::Unreachable);
}

#[test]
fn the_report_as_json() {
    let mut view = View { nodes: vec![node("a", "x")], probes: vec![probe("a", "a", 3, None)] };
    view.probes[0].latency = Some(Duration::from_micros(1234));
    view.nodes[0].databases.connected = 1;
    let json = serde_json::to_value(view.assess()).unwrap();
    assert_eq!(
        json,
        serde_json::json!({
            "node": "a", "status": "ok",
            "nodes": [{"id": "a", "region": "x", "version": "1.0.0", "uptime_seconds": 600, "status": "ok",
                       "databases": {"connected": 1, "failing": 0}}],
            "pairs": [{"from": "a", "to": "a", "status": "ok", "latency_ms": 1.23, "age_seconds": 3}],
            "regions": [{"from": "x", "to": "x", "status": "ok", "latency_ms": 1.23}],
        })
    );
}
