//! Memory over many jobs.

use std::time::Instant;

use serde_json::json;

use crate::client::{Client, PATIENCE};
use crate::server::Process;

fn metric(client: &mut Client, name: &str) -> f64 {
    let text = String::from_utf8(client.get("/metrics").body).unwrap();
    let mut lines = text.lines();
    let line = lines.find(|line| line.starts_with(&format!("{name} ")));
    line.unwrap().rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn memory_is_level_over_five_hundred_jobs() {
    let folder = tempfile::tempdir().unwrap();
    let server = Process::start(folder.path(), 0, 1000, 0);
    let mut client = server.client();
    let mut resident = Vec::new();
    for hundred in 0..5 {
        for job in 0..100 {
            let body = json!({"prompt": format!("{hundred} {job}"), "size": "16x16", "frames": 5, "steps": 2});
            client.create(&body);
        }
        let begun = Instant::now();
        while metric(&mut client, "longcat_jobs_total{result=\"completed\"}")
            < 100.0 * f64::from(hundred + 1)
        {
            assert!(begun.elapsed() < PATIENCE);
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        resident.push(metric(&mut client, "longcat_resident_memory_bytes") / f64::from(1 << 20));
    }
    println!("MiB after every hundred jobs: {resident:.1?}");
    // Threads take memory when they first work.
    let grown = resident[4] - resident[1];
    assert!(grown < 6.0, "{resident:?}");
}
