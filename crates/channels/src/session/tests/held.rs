//! A session with its driver, whose database is held at every question: whatever ends a channel, the question that is on
//! its way is overtaken.

use realtime_postgres::Generation;

use super::*;
use crate::driver::Driver;

impl Fixture {
    fn driver(&self) -> Driver {
        let era = self.runtime.sockets().era();
        Driver::new(self.socket().session, Arc::clone(&self.runtime), era)
    }

    /// Whether any of these generations still counts.
    fn any_current(generations: &[Generation]) -> bool {
        generations.iter().any(Generation::is_current)
    }
}

fn say(driver: &mut Driver, message: Value) {
    driver.receive(Opcode::Text, message.to_string().into()).unwrap();
}

/// Lets the driver's steps run until they wait for the database.
async fn settle(driver: &mut Driver) {
    let idle = time::timeout(Duration::from_millis(1), async {
        loop {
            driver.event().await.unwrap();
        }
    });
    assert!(idle.await.is_err());
}

fn renewed(n: u32) -> Value {
    let token = sign_hs256(SECRET, &json!({"role": format!("r{n}"), "exp": NOW + 500}).to_string());
    json!(["1", "9", "realtime:a", "access_token", {"access_token": token}])
}

/// How a channel ends.
const ENDS: [fn(&mut Driver); 3] = [
    |driver| say(driver, json!(["1", "l", "realtime:a", "phx_leave", {}])),
    |driver| say(driver, json!(["2", "2", "realtime:a", "phx_join", {"config": {}}])),
    |driver| driver.end(),
];

/// However a channel ends while its subscription is held, before its join is answered or after it: nothing of it counts.
#[tokio::test(start_paused = true)]
async fn what_is_on_its_way_is_overtaken_by_the_end() {
    for end in ENDS {
        for (answers, renewals) in [(0, 0), (1, 0), (1, 1), (1, 3), (2, 3)] {
            let fixture = Fixture::new(|_| {});
            let mut driver = fixture.driver();
            say(&mut driver, json!(["1", "1", "realtime:a", "phx_join", watch()]));
            settle(&mut driver).await;
            let mut generations = Vec::new();
            for n in 0..answers {
                generations.extend(fixture.database.answer_subscriptions(Ok(())));
                settle(&mut driver).await;
                if n == 0 {
                    for renewal in 0..renewals {
                        say(&mut driver, renewed(renewal));
                    }
                    settle(&mut driver).await;
                }
            }
            if answers == 0 {
                // A leave waits for the join; a socket that is gone does not.
                time::advance(Duration::from_secs(6)).await;
                driver.on_time().unwrap();
            }
            end(&mut driver);
            generations.extend(fixture.database.held_subscriptions());
            assert!(!generations.is_empty());
            assert!(!Fixture::any_current(&generations), "{answers} answers, {renewals} renewals");
            assert!(fixture.runtime.routes().is_empty());
            assert_eq!(fixture.database.unsubscribed.load(Ordering::Relaxed), 1);
        }
    }
}

/// The database's handle is replaced while a subscription is held: the next question counts, and the end of the channel
/// overtakes it too.
#[tokio::test(start_paused = true)]
async fn a_question_of_the_last_handle_is_overtaken() {
    let fixture = Fixture::new(|_| {});
    let mut driver = fixture.driver();
    say(&mut driver, json!(["1", "1", "realtime:a", "phx_join", watch()]));
    settle(&mut driver).await;
    driver.outbox().signal(Signal::DatabaseReplaced { elsewhere: false });
    driver.signals().unwrap();
    settle(&mut driver).await;
    let generations = fixture.database.held_subscriptions();
    let current: Vec<bool> = generations.iter().map(Generation::is_current).collect();
    assert_eq!(current, [false, true]);
    driver.end();
    assert!(!Fixture::any_current(&generations));
}

/// A socket has so many questions out at once; the others wait for these, in order.
#[tokio::test(start_paused = true)]
async fn a_socket_puts_so_many_questions_at_once() {
    let fixture = Fixture::new(|tenant| tenant.limits.max_channels_per_client = 1_000);
    let mut driver = fixture.driver();
    for n in 0..90 {
        say(&mut driver, json!(["1", "1", format!("realtime:{n}"), "phx_join", watch()]));
    }
    settle(&mut driver).await;
    let mut answered = 0;
    while answered < 90 {
        let held = fixture.database.answer_subscriptions(Ok(())).len();
        assert!((1..=32).contains(&held), "{held}");
        answered += held;
        settle(&mut driver).await;
    }
}
