//! What compiled policies say of rows.

use super::*;

fn row<'a>(owner: &'a Bytes) -> impl Fn(usize) -> Cell<'a> {
    move |_| Cell::Text(owner)
}

#[test]
fn a_failed_term_shows_nothing_unasked() {
    let compiled = compiled("((n = 1) OR (owner = auth.uid()))");
    let text = Bytes::from_static(b"1");
    let judge = |answer: Answer| {
        compiled.judge(row(&text), &compiled.values(&[answer]), UnixMicros(0), |_| Truth::OPEN)
    };
    assert_eq!(judge(one(ANN)), Truth::TRUE);
    assert_eq!(judge(Err(NoValue::Failed)), Truth::OPEN);
    assert_eq!(
        compiled.judge(row(&text), &compiled.values(&[]), UnixMicros(0), |_| Truth::OPEN),
        Truth::OPEN
    );
}

#[test]
fn calls_are_asked_once_for_all_and_again_for_newcomers() {
    let compiled = compiled("public.is_member(id)");
    let mut sight = Sight::new(compiled.into());
    let none = sight.policy().values(&[]);
    for party in [1, 2, 3] {
        sight.insert(party, none.clone());
    }
    let room = Bytes::from_static(BOB.as_bytes());
    let asked = sight.look(row(&room), UnixMicros(0)).needs;
    assert_eq!((asked.len(), &asked[0].parties), (1, &vec![1, 2, 3]));
    assert_eq!(asked[0].key.values().collect::<Vec<_>>(), [Some(BOB.as_bytes())]);
    sight.answer(&asked[0], &[Some(Truth::TRUE), Some(Truth::FALSE), Some(Truth::NULL)]);
    let seen = sight.look(row(&room), UnixMicros(0));
    assert_eq!((seen.shown, seen.open, seen.needs.len()), (vec![1], vec![], 0));

    // Somebody else under a number that was free: the old answer is not his.
    sight.insert(1, none.clone());
    let again = sight.look(row(&room), UnixMicros(0)).needs;
    assert_eq!(again[0].parties, [1]);
    sight.insert(1, none.clone());
    sight.answer(&again[0], &[Some(Truth::TRUE)]);
    assert!(
        sight.look(row(&room), UnixMicros(0)).shown.is_empty(),
        "the answer was about who was there before"
    );

    // What was asked before the answers were forgotten does not count.
    let late = sight.look(row(&room), UnixMicros(0)).needs;
    let call = late[0].call;
    sight.forget_call(call);
    sight.answer(&late[0], &[Some(Truth::TRUE)]);
    let seen = sight.look(row(&room), UnixMicros(0));
    assert_eq!((seen.shown.len(), seen.needs[0].parties.len()), (0, 3));

    // A failure leaves the party to the database.
    sight.answer(&seen.needs[0], &[None, Some(Truth::TRUE), Some(Truth::FALSE)]);
    let seen = sight.look(row(&room), UnixMicros(0));
    assert_eq!((seen.shown.len(), seen.open.len(), seen.needs.len()), (1, 1, 0));
}

#[test]
fn a_row_is_judged_for_those_only_whom_its_keys_lead_to() {
    let policy = compiled("((owner = auth.uid()) AND (n > 0))");
    let values = |user: usize| policy.values(&[one(&format!("00000000-0000-0000-0000-{user:012}"))]);
    let mut sight = Sight::new(policy.clone().into());
    for user in 0..10_000usize {
        sight.insert(user, values(user));
    }
    let (owner, n) = (Bytes::from_static(b"00000000-0000-0000-0000-000000000042"), Bytes::from_static(b"1"));
    let row = |at: usize| Cell::Text(if at == 2 { &n } else { &owner });
    assert_eq!(sight.candidates(&row), [42]);
    assert_eq!(sight.look(row, UnixMicros(0)).shown, [42]);
    sight.update(42, values(43));
    assert!(sight.candidates(&row).is_empty());
    sight.update(7, values(42));
    assert_eq!(sight.look(row, UnixMicros(0)).shown, [7]);
    (0..10_000).for_each(|user| sight.remove(user));
    assert!(sight.is_empty() && sight.candidates(&row).is_empty());
    // What the change does not carry could be anybody's.
    sight.insert(1, values(1));
    assert_eq!(sight.look(|_| Cell::Missing, UnixMicros(0)).open, [1]);
}

/// A row, the first column of which is the owner's too.
fn of_ann(at: usize) -> Cell<'static> {
    static TEXTS: [Bytes; 2] = [Bytes::from_static(ANN.as_bytes()), Bytes::from_static(b"5")];
    match at {
        2 => Cell::Text(&TEXTS[1]),
        _ => Cell::Text(&TEXTS[0]),
    }
}

#[test]
fn of_a_wrong_verdict_those_are_suspected_that_say_the_same() {
    let policies = [
        Policy { permissive: true, using: "(owner = auth.uid())" },
        Policy { permissive: true, using: "(n = 7)" },
        Policy { permissive: false, using: "(n < 9)" },
    ];
    let compiled = policy::compile(&policies, &rooms(), &catalog());
    let (ann, bob) = (compiled.values(&[one(ANN)]), compiled.values(&[one(BOB)]));
    let mut sight = Sight::new(compiled.into());
    sight.insert(1, ann);
    sight.insert(2, bob);
    let suspects = |party, shown| sight.suspects(party, &of_ann, UnixMicros(0), shown);
    assert_eq!(sight.look(of_ann, UnixMicros(0)).shown, [1]);
    assert_eq!(suspects(1, true), [0, 2], "one of these should have said no");
    assert_eq!(suspects(2, false), [0, 1], "one of these should have said yes");
    assert!(suspects(3, true).is_empty(), "nobody");
}

#[test]
fn a_policy_that_was_found_wrong_is_asked_and_the_others_are_not() {
    let policies = [
        Policy { permissive: true, using: "(owner = auth.uid())" },
        Policy { permissive: true, using: "(n = 7)" },
    ];
    let compiled = policy::compile_distrusting(&policies, &rooms(), &catalog(), &[0].into());
    assert_eq!((compiled.asked().len(), compiled.asked()[0].policy), (1, 0));
    assert_eq!(compiled.asked()[0].why, Why::Distrusted);
    assert!(compiled.terms().is_empty(), "nobody is asked for what it needs");
    let judge = |n: &'static [u8]| {
        let text = Bytes::from_static(n);
        compiled.judge(|_| Cell::Text(&text), &compiled.values(&[]), UnixMicros(0), |_| Truth::OPEN)
    };
    assert!(!judge(b"7").holds() && judge(b"7").may_hold(), "what stands before it may raise");
    assert!(judge(b"6").may_hold());
}
