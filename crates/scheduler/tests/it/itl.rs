//! The controller of the inter-token latency, against devices of which the time of a step is known.

use scheduler::ItlController;

/// A device: how long a step with so many prompt tokens takes, in microseconds.
type Device = fn(usize) -> u64;

/// Steps that fill what the controller allows, and the longest and the allowance after the first few.
fn settle(controller: &mut ItlController, device: Device, steps: usize) -> (u64, usize) {
    let mut longest = 0;
    for _ in 0..steps {
        let rows = controller.prompt_rows();
        longest = longest.max(device(rows));
        controller.observe(rows, device(rows));
    }
    (longest, controller.prompt_rows())
}

fn quiet(controller: &mut ItlController, device: Device) {
    (0..20).for_each(|_| controller.observe(0, device(0)));
}

#[test]
fn rows_grow_to_what_the_bound_allows_and_no_step_passes_it() {
    // Half a millisecond a row.
    let device: Device = |rows| 50_000 + 500 * rows as u64;
    let mut controller = ItlController::new(100_000, 512);
    quiet(&mut controller, device);
    let (longest, rows) = settle(&mut controller, device, 100);
    assert!(longest <= 100_000, "{longest} µs");
    assert!((60..=100).contains(&rows), "{rows} rows");
}

#[test]
fn a_few_rows_that_cost_nothing_do_not_mislead() {
    // A weight that is read for one row serves sixteen.
    let device: Device = |rows| 75_000 + 2_000 * (rows as u64).saturating_sub(16);
    let mut controller = ItlController::new(150_000, 512);
    quiet(&mut controller, device);
    (0..50).for_each(|_| controller.observe(5, device(5)));
    let (longest, rows) = settle(&mut controller, device, 100);
    assert!(longest <= 150_000 * 3 / 2, "{longest} µs");
    let (longest, _) = settle(&mut controller, device, 100);
    assert!(longest <= 150_000, "{longest} µs once it is settled");
    assert!((30..=60).contains(&rows), "{rows} rows");
}

#[test]
fn a_slower_device_gets_fewer_rows_at_once_and_a_faster_one_more_in_time() {
    let slow: Device = |rows| 10_000 + 1_000 * rows as u64;
    let fast: Device = |rows| 10_000 + 100 * rows as u64;
    let mut controller = ItlController::new(50_000, 1024);
    quiet(&mut controller, fast);
    let (_, many) = settle(&mut controller, fast, 100);
    assert!((250..=400).contains(&many), "{many} rows");
    controller.observe(many, slow(many));
    let few = controller.prompt_rows();
    assert!(slow(few) <= 50_000, "{few} rows");
    let (_, again) = settle(&mut controller, fast, 100);
    assert!(again > 250, "{again} rows");
}

#[test]
fn prompts_get_on_where_the_bound_cannot_be_held_and_fill_a_step_where_it_is_wide() {
    let device: Device = |rows| 20_000 + rows as u64;
    let mut controller = ItlController::new(10_000, 512);
    quiet(&mut controller, device);
    assert_eq!(settle(&mut controller, device, 50).1, 4);
    let mut controller = ItlController::new(10_000_000, 512);
    quiet(&mut controller, device);
    assert_eq!(settle(&mut controller, device, 50).1, 512);
    assert_eq!(ItlController::new(1, 3).prompt_rows(), 3, "no more than a step has");
}

#[test]
fn where_the_next_tile_of_rows_costs_much_few_steps_are_late() {
    // Four sequences decode; 16 rows are a tile.
    let device: Device = |rows| 80_000 + 75_000 * ((rows as u64 + 4 - 1) / 16);
    let mut controller = ItlController::new(150_000, 512);
    quiet(&mut controller, device);
    settle(&mut controller, device, 100);
    let (mut late, mut prompts) = (0, 0);
    for _ in 0..2_000 {
        let rows = controller.prompt_rows();
        prompts += rows;
        late += usize::from(device(rows) > 150_000);
        controller.observe(rows, device(rows));
    }
    assert!(late < 20, "{late} of 2,000 steps are late");
    assert!(prompts > 2_000 * 9, "{prompts} tokens of prompts in 2,000 steps");
}
