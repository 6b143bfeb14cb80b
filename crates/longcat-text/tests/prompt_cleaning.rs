//! Golden strings of the kind `prompt_clean`.
#![allow(clippy::unwrap_used)]

use longcat_text::clean_prompt;

mod golden;

#[test]
fn golden_strings_are_cleaned_exactly() {
    let mut count = 0;
    for case in golden::cases("prompt_clean") {
        for pair in case.json["strings"].as_array().unwrap() {
            let (input, expected) = (&pair["input"], &pair["expected"]);
            let cleaned = clean_prompt(input.as_str().unwrap());
            assert_eq!(cleaned, expected.as_str().unwrap(), "{}: {input}", case.id);
            count += 1;
        }
    }
    assert!(count > 0, "no golden strings found");
}

#[test]
fn cleaning_a_clean_prompt_changes_nothing() {
    for case in golden::cases("prompt_clean") {
        for pair in case.json["strings"].as_array().unwrap() {
            let clean = pair["expected"].as_str().unwrap();
            assert_eq!(clean_prompt(clean), clean);
        }
    }
}
