"""The faults and bad inputs that must do no harm, the properties that must hold, and which tests provoke each.

Every test named here carries the marker `robustness`; a name that no test has fails `test_robustness_table.py`.
"""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """A fault, what must happen, and the tests that provoke it, as `file::test` without `test_` and `.py`."""

    fault: str
    behaviour: str
    tests: tuple[str, ...]


FAULTS = (
    Row(
        "CRLF, BOM, tabs, no final newline, trailing spaces",
        "the same result as the clean file",
        (
            "parsers::a_dirty_adjacency_list_reads_as_the_clean_one",
            "parsers::a_table_by_named_columns",
            "parsers::atomic",
            "robustness_files::a_dirty_folder_loads_as_the_clean_one",
        ),
    ),
    Row(
        "a user without items; users only in test; items only in test",
        "accepted, counted and reported; users without test items are left out of the mean; cold users and items are "
        "scored the same at every width",
        (
            "parsers::a_user_without_items_gives_a_row_without_item",
            "interactions::given_parts_are_kept_and_odd_users_and_items_counted",
            "evaluate::metrics_are_those_of_a_slow_loop",
            "robustness_files::the_cold_are_counted_and_scored_alike_at_every_width",
        ),
    ),
    Row(
        "negative, float, text, over-long id; ragged atomic or CSV row",
        "an error `path:line` that names the token",
        (
            "parsers::a_bad_id_is_named_with_its_line",
            "parsers::a_broken_row_is_named_with_its_line",
            "parsers::a_broken_atomic_file_is_named_with_its_line",
            "parsers::movielens",
            "labels::a_broken_line_is_named",
            "robustness_files::a_number_of_thousands_of_digits_is_named",
            "robustness_files::parquet_columns_of_any_type_are_read_or_named",
        ),
    ),
    Row(
        "one absurd id (10¹²)",
        "ids are remapped to a dense range; never a dense allocation",
        (
            "parsers::one_absurd_id_costs_no_memory",
            "interactions::dense_ids_are_their_own_rows_and_an_absurd_id_costs_nothing",
            "robustness_files::one_absurd_id_costs_nothing_from_file_to_recommendation",
        ),
    ),
    Row(
        "duplicates within or across user lines",
        "merged; a note with the count",
        ("interactions::build_agrees_with_a_slow_loop", "robustness_files::duplicates_are_merged_and_counted"),
    ),
    Row(
        "the same pair in train and test",
        "an error with the count; `overlap=drop_test` drops it from test",
        (
            "interactions::a_pair_in_both_parts_is_an_error_unless_dropped_from_test",
            "datasets::the_same_pair_in_train_and_test",
        ),
    ),
    Row(
        "a user who has every item",
        "the sampler terminates; the user yields no triplet; reported",
        (
            "sampler::a_user_who_has_every_item_is_not_trainable_and_refused",
            "train::users_who_have_every_item_yield_no_triplet",
            "robustness_files::a_user_who_has_everything_is_reported_and_training_ends",
        ),
    ),
    Row(
        "empty file; HTML page, Git-LFS pointer or truncated copy instead of data",
        "an error that names the likely cause",
        (
            "parsers::what_is_not_data_names_the_likely_cause",
            "parsers::other_broken_tables_name_the_file",
            "parsers::parquet",
            "datasets::a_truncated_copy_is_known_by_its_size",
            "robustness_files::a_damaged_parquet_file_never_takes_the_process_down",
        ),
    ),
    Row(
        "impossible fractions, k, widths or weights",
        "an error before data loads",
        (
            "splits::settings_that_are_not_name_the_value_and_the_remedy",
            "datasets::settings_are_refused_before_anything_is_read",
            "interactions::impossible_settings_fail_before_the_log_is_looked_at",
            "interactions::hold_out_settings_are_checked",
            "config::impossible_settings_are_refused_in_one_line_that_names_them",
            "widths::bad_widths_are_named_with_the_remedy",
            "widths::bad_level_weights_are_refused",
            "synthetic::impossible_settings_are_named",
            "evaluate::impossible_ks",
            "robustness_files::a_catalogue_shorter_than_the_lists_is_refused_before_anything_is_written",
        ),
    ),
    Row(
        "missing timestamps for a temporal split; ties",
        "an error; a stable documented order",
        (
            "interactions::timed_splits_need_every_timestamp",
            "interactions::timed_splits_take_the_latest_and_break_ties_by_user_then_item",
        ),
    ),
    Row(
        "papermill with unknown names, text for truth values and lists, nan, YAML text",
        "every notebook fails in its first seconds and names the parameter, or parses strictly to the right type",
        (
            "notebooks::an_unknown_parameter_stops_a_notebook_with_one_line",
            "parameters::a_bad_value_is_one_line",
            "parameters::an_unknown_injected_name_is_refused",
            "parameters::a_name_misspelt_in_the_parameters_cell_is_refused",
            "parameters::papermill_passes_text_and_yaml",
            "parameters::papermill_with_an_unknown_name_fails_and_says_so_last",
            "parameters::any_value_is_a_setting_or_a_config_error",
            "robustness_notebooks::every_parameter_of_every_notebook_refuses_what_it_is_not",
            "robustness_notebooks::every_parameter_of_every_notebook_reads_its_default_as_text",
            "robustness_notebooks::papermill_stops_every_notebook_at_a_wrong_value",
        ),
    ),
    Row(
        "NaN or Inf in loss, gradients or scores",
        "stops at that step; the last good checkpoint stays; never ranked, never saved",
        (
            "train::training_that_diverges_stops_there_and_leaves_the_last_checkpoint",
            "robustness_training::a_gradient_that_is_not_finite_stops_training_and_loses_nothing",
            "robustness_training::divergence_ends_the_process_with_an_error",
            "evaluate::not_a_number_is_never_ranked",
            "evaluate::scores_that_overflow_are_not_ranked",
            "run::vectors_that_are_not_finite_are_not_saved",
            "clusters::nan_is_never_clustered",
        ),
    ),
    Row(
        "equal scores",
        "ties break by item id, on CPU and GPU and for every batch size",
        (
            "evaluate::top_k_is_a_stable_sort",
            "evaluate::top_k_of_long_rows_with_ties",
            "evaluate::chunks_change_nothing",
            "evaluate::cuda_agrees_with_the_cpu",
        ),
    ),
    Row(
        "masked items",
        "never recommended, also when k exceeds what remains",
        (
            "run::recommendations_leave_out_what_is_seen_and_end_where_nothing_is_left",
            "evaluate::ranking_of_vectors_is_the_slow_one",
            "evaluate::short_list_is_filled_with_misses",
        ),
    ),
    Row(
        "SIGKILL at any moment",
        "the checkpoint is whole, temporary files are cleared, and the end is that of an undisturbed run, bit for bit",
        (
            "robustness_kills::a_training_killed_again_and_again_ends_in_the_same_bits",
            "train::a_killed_run_resumes_to_the_same_bits",
            "run::a_killed_writer_leaves_a_whole_checkpoint_and_no_lock",
            "run::temporary_files_of_a_killed_writer_are_cleared",
            "run::an_interrupted_run",
        ),
    ),
    Row(
        "disk full while saving",
        "an error; the previous checkpoint is whole; resumed where there is room, the end is the same bits",
        (
            "robustness_training::a_full_disk_stops_training_which_resumes_where_there_is_room",
            "robustness_training::a_file_that_may_grow_no_further_leaves_the_previous_checkpoint",
            "run::a_full_disk_leaves_the_previous_checkpoint_whole",
            "run::a_path_that_cannot_be_a_folder",
        ),
    ),
    Row(
        "a checkpoint of another data set, other widths, another version",
        "an error that names both",
        (
            "run::a_checkpoint_of_another_run_is_refused",
            "run::a_file_of_another_format_version",
            "train::a_checkpoint_of_other_settings_or_data_is_not_taken_up",
        ),
    ),
    Row(
        "a pickled or tampered weights file; files of another run",
        "never unpickled; refused",
        (
            "run::a_pickle_is_refused_and_not_opened",
            "run::a_single_changed_byte_is_noticed",
            "run::a_tampered_checkpoint_is_refused",
            "run::weights_from_elsewhere_are_refused",
            "run::weights_of_another_run_are_refused",
            "run::damaged_files",
            "run::missing_files",
            "run::json_that_is_no_object",
            "run::not_a_run_directory",
            "run::seen_items_that_do_not_exist_are_refused",
            "run::ids_with_a_missing_row_are_refused",
            "house::module_neither_prints_nor_unpickles_nor_evaluates_nor_seeds",
        ),
    ),
    Row(
        "archive with `../`, absolute names, links, devices, or gigabytes",
        "refused; nothing outside the cache; a byte limit",
        (
            "downloads::archives_that_reach_outside_are_refused",
            "downloads::archives_that_unpack_to_too_much_are_refused",
            "downloads::broken_archives_are_refused",
            "downloads::only_wanted_members_are_read",
            "downloads::an_endless_file_is_given_up",
        ),
    ),
    Row(
        "wrong checksum, dropped connection, 403, 404, redirect, slow server",
        "retried where it helps, then an error with the manual way; no partial file is seen as whole",
        (
            "downloads::a_fault_is_retried_where_it_helps_and_then_explained",
            "downloads::a_wrong_sha256_is_refused_too",
            "downloads::a_second_attempt_may_succeed",
            "downloads::a_server_that_only_drips_is_given_up",
            "downloads::without_room_the_cache_is_named",
            "downloads::a_wheel_with_other_contents_is_refused",
            "robustness_files::redirects_are_followed_checked_and_not_for_ever",
        ),
    ),
    Row(
        "two processes want the same data set or the same run directory",
        "one downloads, the other waits; the second writer is refused",
        (
            "downloads::two_processes_download_once_and_a_killed_one_leaves_nothing_half",
            "run::the_second_writer_is_refused",
            "robustness_training::a_second_training_in_the_same_directory_is_refused",
        ),
    ),
    Row(
        "offline",
        "what is cached works; else one line with the manual way",
        (
            "downloads::an_unreachable_host_fails_fast_and_is_remembered",
            "downloads::both_sources_out_of_reach_give_both_reasons",
            "downloads::mrl_data_comes_first",
            "downloads::a_download_lands_whole_in_the_cache_and_is_not_repeated",
            "datasets::out_of_reach_names_the_files_and_the_folder",
            "robustness_files::what_is_cached_loads_offline",
        ),
    ),
    Row(
        "no CUDA; CUDA out of memory in evaluation",
        "runs on the CPU and says so; halves the chunk and gives the same metrics",
        (
            "train::a_gpu_that_is_not_there_is_refused_in_words",
            "evaluate::out_of_memory_halves_the_chunk",
            "evaluate::out_of_memory_with_one_user_is_an_error",
        ),
    ),
    Row(
        "Ctrl-C in a notebook or papermill",
        "a resumable run directory",
        (
            "robustness_training::ctrl_c_leaves_a_directory_that_resumes_to_the_same_bits",
            "robustness_notebooks::ctrl_c_in_papermill_leaves_a_run_that_resumes",
        ),
    ),
    Row(
        "random bytes and mutated files of every kind that is read",
        "data or one of our errors in one line, in bounded time and memory",
        (
            "robustness_files::every_error_is_one_line_of_bounded_length",
            "robustness_fuzz::mutated_files_are_read_or_refused_in_one_line",
            "robustness_fuzz::any_bytes_are_read_or_refused_in_one_line",
            "robustness_fuzz::mutated_runs_are_read_or_refused_in_one_line",
        ),
    ),
)

PROPERTIES = (
    Row(
        "scores at width d",
        "equal the scores of the first d columns copied out",
        (
            "widths::prefix_scores_are_those_of_the_copied_columns",
            "evaluate::scores_of_a_prefix_are_those_of_the_copied_columns",
        ),
    ),
    Row(
        "batch and chunk size",
        "change no result",
        (
            "evaluate::chunks_change_nothing",
            "evaluate::threads_and_many_rows_change_nothing",
            "controls::ease_is_its_closed_form",
        ),
    ),
    Row(
        "renumbering users or items",
        "permutes the results and changes nothing else",
        ("evaluate::renumbering_changes_nothing_else", "ials::renumbering_users_permutes_them"),
    ),
    Row(
        "recall",
        "grows with k",
        ("evaluate::recall_grows_with_k", "robustness_properties::recall_and_hits_grow_with_k"),
    ),
    Row(
        "a sampled negative",
        "is no known positive",
        ("candidates::no_candidate_is_ever_a_positive", "robustness_properties::no_rule_ever_picks_a_positive"),
    ),
    Row(
        "the nested loss with one width",
        "is the plain loss",
        (
            "loss::one_width_is_the_plain_loss_and_the_last_weight_alone_is_the_full_width",
            "robustness_properties::one_width_is_the_plain_loss_and_the_last_weight_alone_the_full_width",
        ),
    ),
    Row(
        "weights (0, …, 0, 1)",
        "give the full-width model",
        (
            "loss::one_width_is_the_plain_loss_and_the_last_weight_alone_is_the_full_width",
            "robustness_properties::one_width_is_the_plain_loss_and_the_last_weight_alone_the_full_width",
            "robustness_properties::weight_on_the_last_width_alone_trains_the_full_width_model",
        ),
    ),
    Row(
        "a seed",
        "gives the same weights on every repeat with the threads that environment.json states; what differs between "
        "two runs is told",
        (
            "train::a_seed_repeats_bit_for_bit_and_another_does_not",
            "robustness_training::a_seed_gives_the_same_bits_in_any_process_and_with_the_threads_it_says",
            "run::differences",
            "run::environment",
        ),
    ),
)


def test_name(test: str) -> str:
    """`file::test` of the table as pytest has it."""
    file, _, name = test.partition("::")
    return f"test_{file}.py::test_{name}"


test_name.__test__ = False  # type: ignore[attr-defined]
