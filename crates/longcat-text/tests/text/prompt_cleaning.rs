//! Cleaning prompts, beyond the golden strings.

use longcat_text::clean_prompt;

use crate::golden;

#[test]
fn cleaning_a_clean_prompt_changes_nothing() {
    let mut count = 0;
    for case in golden::cases("prompt_clean") {
        for pair in case.json["strings"].as_array().unwrap() {
            let clean = pair["expected"].as_str().unwrap();
            assert_eq!(clean_prompt(clean), clean);
            count += 1;
        }
    }
    assert!(count > 0, "no golden strings found");
}
