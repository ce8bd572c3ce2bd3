//! Named places where a test can make the server wait, fail or die. Release builds contain none of it.
//!
//! A test sets `FAILPOINTS` for the server process: actions by point, separated by semicolons, such as
//! `relation_asked=20%delay(50);slot_made=2*error`. An action may begin with a chance in percent and with how often it
//! happens at most:
//!
//! - `delay(MS)`: the point takes so long
//! - `hold(PATH)`: the point waits until there is no file at this path
//! - `error`: what is asked or done there fails; for what cannot fail, it is not done
//! - `abort`: the process dies

/// A place in the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    /// `slot_made`: a replication slot was made and is not read yet.
    SlotMade,
    /// `relation_asked`: the catalog is about to be asked for a table that the walsender has described.
    RelationAsked,
    /// `verdict_asked`: the database is about to be asked who sees rows.
    VerdictAsked,
    /// `party_aside`: a party has answered who sees rows; on an error it has not, and its rows go into its lane.
    PartyAside,
    /// `position_confirmed`: a position is about to be confirmed to the walsender.
    PositionConfirmed,
    /// `subscribe_handed_over`: a checked subscription is about to be handed to the worker.
    SubscribeHandedOver,
    /// `policy_table_changed`: a row of a table is about to be noticed that policies may read.
    PolicyTableChanged,
    /// `live_looked`: live results are about to be told of a transaction.
    LiveLooked,
    /// `past_read`: the log of before the start is about to be read.
    PastRead,
    /// `calls_narrowed`: a call is about to be asked of some parties; on an error they count as many, however few they are.
    CallsNarrowed,
    /// `name_lost`: it was looked up whom rows name; on an error one of them is left out.
    NameLost,
}

#[cfg(not(debug_assertions))]
#[inline]
pub(crate) fn reach(_: Point) -> std::future::Ready<bool> {
    std::future::ready(false)
}

#[cfg(debug_assertions)]
pub(crate) use active::reach;

#[cfg(debug_assertions)]
mod active {
    use std::{
        path::PathBuf,
        sync::{
            LazyLock,
            atomic::{AtomicU64, Ordering},
        },
    };

    use tokio::time::{self, Duration};

    use super::Point;

    /// Where a test says what is to happen.
    const VARIABLE: &str = "FAILPOINTS";

    /// How often it is looked whether a file that holds a point is gone.
    const LOOK: Duration = Duration::from_millis(5);

    impl Point {
        const ALL: [Self; 11] = [
            Self::SlotMade,
            Self::RelationAsked,
            Self::VerdictAsked,
            Self::PartyAside,
            Self::PositionConfirmed,
            Self::SubscribeHandedOver,
            Self::PolicyTableChanged,
            Self::LiveLooked,
            Self::PastRead,
            Self::CallsNarrowed,
            Self::NameLost,
        ];

        const fn name(self) -> &'static str {
            match self {
                Self::SlotMade => "slot_made",
                Self::RelationAsked => "relation_asked",
                Self::VerdictAsked => "verdict_asked",
                Self::PartyAside => "party_aside",
                Self::PositionConfirmed => "position_confirmed",
                Self::SubscribeHandedOver => "subscribe_handed_over",
                Self::PolicyTableChanged => "policy_table_changed",
                Self::LiveLooked => "live_looked",
                Self::PastRead => "past_read",
                Self::CallsNarrowed => "calls_narrowed",
                Self::NameLost => "name_lost",
            }
        }
    }

    #[derive(Debug, PartialEq, Eq)]
    enum Task {
        Delay(Duration),
        Hold(PathBuf),
        Error,
        Abort,
    }

    #[derive(Debug)]
    struct Action {
        point: Point,
        percent: f64,
        left: AtomicU64,
        task: Task,
    }

    static ACTIONS: LazyLock<Vec<Action>> = LazyLock::new(|| {
        let Ok(text) = std::env::var(VARIABLE) else { return Vec::new() };
        match text.split(';').filter(|action| !action.trim().is_empty()).map(parse).collect() {
            Ok(actions) => actions,
            Err(problem) => {
                tracing::error!("{VARIABLE}: {problem}");
                std::process::abort();
            }
        }
    });

    fn parse(text: &str) -> Result<Action, String> {
        let problem = || format!("{text} is no action of a point");
        let (name, action) = text.trim().split_once('=').ok_or_else(problem)?;
        let point = Point::ALL.into_iter().find(|point| point.name() == name).ok_or_else(problem)?;
        let (percent, action) = match action.split_once('%') {
            Some((percent, action)) => (percent.parse().map_err(|_| problem())?, action),
            None => (100.0, action),
        };
        let (left, action) = match action.split_once('*') {
            Some((left, action)) => (left.parse().map_err(|_| problem())?, action),
            None => (u64::MAX, action),
        };
        let argument = |name: &str| action.strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')');
        let task = if let Some(millis) = argument("delay") {
            Task::Delay(Duration::from_millis(millis.parse().map_err(|_| problem())?))
        } else if let Some(path) = argument("hold") {
            Task::Hold(path.into())
        } else {
            match action {
                "error" => Task::Error,
                "abort" => Task::Abort,
                _ => return Err(problem()),
            }
        };
        Ok(Action { point, percent, left: AtomicU64::new(left), task })
    }

    impl Action {
        /// Whether it happens now.
        fn happens(&self) -> bool {
            let less = |left: u64| if left == u64::MAX { Some(left) } else { left.checked_sub(1) };
            rand::random_range(0.0..100.0) < self.percent
                && self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
        }
    }

    /// Does what a test wants here. True: this is to fail. Cancel safe.
    pub(crate) async fn reach(point: Point) -> bool {
        let mut fails = false;
        for action in ACTIONS.iter().filter(|action| action.point == point) {
            if !action.happens() {
                continue;
            }
            match &action.task {
                Task::Delay(pause) => time::sleep(*pause).await,
                Task::Hold(path) => {
                    while path.exists() {
                        time::sleep(LOOK).await;
                    }
                }
                Task::Error => fails = true,
                Task::Abort => std::process::abort(),
            }
        }
        fails
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn actions_are_read() {
            let action = parse("relation_asked=20%3*delay(50)").unwrap();
            assert_eq!((action.point, action.percent), (Point::RelationAsked, 20.0));
            assert_eq!(action.task, Task::Delay(Duration::from_millis(50)));
            assert_eq!(action.left.load(Ordering::Relaxed), 3);
            assert_eq!(parse(" slot_made=hold(/tmp/x)").unwrap().task, Task::Hold("/tmp/x".into()));
            for (task, text) in [(Task::Error, "error"), (Task::Abort, "abort")] {
                assert_eq!(parse(&format!("verdict_asked={text}")).unwrap().task, task);
            }
            for bad in
                ["", "slot_made", "slot=error", "slot_made=delay", "slot_made=x%error", "slot_made=sleep(1)"]
            {
                assert!(parse(bad).is_err(), "{bad}");
            }
        }

        #[test]
        fn actions_happen_as_often_as_they_are_to() {
            let happened = |text: &str| {
                let action = parse(text).unwrap();
                (0..1000).filter(|_| action.happens()).count()
            };
            assert_eq!(happened("slot_made=error"), 1000);
            assert_eq!(happened("slot_made=2*error"), 2);
            assert_eq!(happened("slot_made=0%error"), 0);
            assert!((300..700).contains(&happened("slot_made=50%error")));
        }
    }
}
