//! What the broker answers that it does not take now, and may later (MQTT 5).

use super::*;

#[test]
fn what_is_turned_down_is_tried_again_in_order_and_holds_up_nobody() {
    let mut bench = Bench::new(8);
    bench.send("full", "1");
    bench.send("full", "2");
    bench.send("well", "other");
    let out = bench.out(DIRECT);
    bench.ledger.handle_turned_down(out[0].0, bench.now);
    // It waits for no answer there any more, and nothing is behind it.
    assert_eq!(bench.ledger.in_flight(DIRECT), 1);
    bench.ledger.handle_confirmed(out[2].0);
    assert_eq!(bench.ledger.in_flight(DIRECT), 0);
    let first = bench.out(APART);
    assert_eq!(first.len(), 1);
    assert_eq!(first[0].1, "1");
    bench.ledger.handle_turned_down(first[0].0, bench.now);
    assert!(bench.texts(APART).is_empty(), "it rests");
    assert_eq!(bench.ledger.in_flight(APART), 0);
    bench.wait(TIMEOUT + SECOND, true);
    assert!(bench.replaced.is_empty());
    let again = bench.out(APART);
    assert_eq!(again[0].1, "1");
    bench.ledger.handle_confirmed(again[0].0);
    assert_eq!(bench.texts(APART), ["2"]);
}

#[test]
fn what_is_turned_down_again_and_again_is_given_up_unless_nothing_else_is_taken() {
    for others in [true, false] {
        let mut bench = Bench::new(8);
        bench.send("full", "1");
        let out = bench.out(DIRECT);
        bench.ledger.handle_turned_down(out[0].0, bench.now);
        let mut tries = 0;
        for _ in 0..2 * TRIES {
            bench.wait(TIMEOUT + SECOND, others);
            let Some((id, _)) = bench.out(APART).pop() else {
                break;
            };
            tries += 1;
            // Something is confirmed while it is in flight, or not.
            bench.wait(SECOND, others);
            bench.ledger.handle_turned_down(id, bench.now);
        }
        let failed = bench.ledger.poll_failed();
        assert_eq!(failed.is_some(), others);
        assert_eq!(tries, if others { TRIES } else { 2 * TRIES });
        assert!(bench.replaced.is_empty());
    }
}
