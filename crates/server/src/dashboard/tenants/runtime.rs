//! What runs of a tenant on this node.

use std::sync::atomic::Ordering;

use maud::{Markup, html};

use super::{Known, path_of};
use crate::{
    app::App,
    dashboard::{
        Page, source,
        view::{
            parts::{facts, form, plain, state},
            units,
        },
    },
    limits::Meter,
};

/// Its connections, its users, and the buttons that end connections.
pub fn section(app: &App, page: &Page, known: &Known) -> Markup {
    let external_id = known.external_id();
    let Some(runtime) = source::running(app, external_id) else {
        return html! { p.dim { "Nothing runs on this node: nobody has used it since the server started." } };
    };
    let database = runtime.database();
    let replicates = database.is_replicating();
    // Without anybody who watches or listens there is nothing to read the log for.
    let watched = runtime.users().count() > 0;
    let mut rows = vec![
        ("Node", plain(app.status().node())),
        ("Database connection", state(database.is_connected(), "up", "down")),
        ("Replication", needed(replicates, watched, "up", "down")),
        (
            "Broadcasts from the database",
            needed(database.replication().arrives, watched && replicates, "arriving", "not arriving"),
        ),
        ("Users (sockets with a channel)", plain(units::count(u64::from(runtime.users().count())))),
        ("Sockets", plain(units::count(runtime.sockets().len() as u64))),
        ("Rooms", plain(units::count(app.rooms_of(external_id) as u64))),
        ("Channels that watch row changes", plain(units::count(runtime.routes().len() as u64))),
        ("Joins a second", rate(runtime.meters().joins())),
        ("Events a second", rate(runtime.meters().events())),
        ("Presence events a second", rate(runtime.meters().presence())),
        ("Row changes a second", rate(runtime.meters().db_events())),
    ];
    let stats = &runtime.metrics().database;
    let lag = stats.lag_bytes.load(Ordering::Relaxed);
    rows.push(("Rows read from the log", plain(units::count(stats.rows.load(Ordering::Relaxed)))));
    rows.push(("Not handed over yet", plain(units::bytes(lag))));
    let path = path_of(external_id);
    html! {
        (facts(&rows))
        div.forms {
            (form(page, &format!("{path}/end-database"), &html! {}, "Stop database connection"))
            (form(page, &format!("{path}/end-replication"), &html! {}, "Stop replication and changes"))
        }
        p.dim { "What is stopped starts again when it is next used: at once for those who watch rows." }
    }
}

/// A state that is only bad if somebody needs the other one.
fn needed(good: bool, needed: bool, yes: &str, no: &str) -> Markup {
    if good || needed {
        state(good, yes, no)
    } else {
        html! { span.tag { (no) ", nobody needs it" } }
    }
}

/// An average over up to a minute, and its limit.
fn rate(meter: &Meter) -> Markup {
    plain(format!("{:.1} of {}", meter.average(), meter.limit()))
}
