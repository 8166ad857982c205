"""The faults and bad inputs that must do no harm, the properties that must hold, and which tests provoke each.

Every test named here carries the marker `robustness`; a name that no test has fails `robustness/test_table.py`.
"""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """A fault, what must happen, and the tests that provoke it, as `wing/file::test` without `test_` and `.py`."""

    fault: str
    behaviour: str
    tests: tuple[str, ...]


FAULTS = (
    Row(
        "CRLF, BOM, tabs, no final newline, trailing spaces",
        "the same result as the clean file",
        (
            "files/parsers::a_dirty_adjacency_list_reads_as_the_clean_one",
            "files/parsers::a_table_by_named_columns",
            "files/parsers::atomic",
            "robustness/files::a_dirty_folder_loads_as_the_clean_one",
        ),
    ),
    Row(
        "a user without items; users only in test; items only in test",
        "accepted, counted and reported; users without test items are left out of the mean; cold users and items are "
        "scored the same at every width",
        (
            "files/parsers::a_user_without_items_gives_a_row_without_item",
            "data/interactions::given_parts_are_kept_and_odd_users_and_items_counted",
            "evaluation/evaluate::metrics_are_those_of_a_slow_loop",
            "robustness/files::the_cold_are_counted_and_scored_alike_at_every_width",
        ),
    ),
    Row(
        "negative, float, text, over-long id; ragged atomic or CSV row",
        "an error `path:line` that names the token",
        (
            "files/parsers::a_bad_id_is_named_with_its_line",
            "files/parsers::a_broken_row_is_named_with_its_line",
            "files/parsers::a_broken_atomic_file_is_named_with_its_line",
            "files/parsers::movielens",
            "files/labels::a_broken_line_is_named",
            "robustness/files::a_number_of_thousands_of_digits_is_named",
            "robustness/files::parquet_columns_of_any_type_are_read_or_named",
        ),
    ),
    Row(
        "a file whose content does not settle what it is: `user item rating` or lists of two items, lengths or users, "
        "a table without a header line",
        "what is certain is read, with a note that says as what; the rest is refused in one line with what to write",
        (
            "files/formats::a_table_of_ratings_is_not_taken_for_adjacency_lists",
            "files/formats::three_numbers_a_line_are_read_as_what_they_are",
            "files/formats::half_stars_are_no_ids_either",
            "files/formats::what_may_be_lists_or_columns_is_refused_with_the_remedy",
            "files/formats::true_lists_load_as_before",
            "files/formats::lists_that_start_with_their_length_are_read_by_line",
            "files/formats::a_table_without_a_header_is_told_what_to_put_on_top",
            "files/formats::files_of_other_programs_are_named",
            "files/formats::sniff_explains_itself",
            "files/formats::the_real_layouts_load_as_they_lie",
        ),
    ),
    Row(
        "columns of other names, none or two that may be meant, one for both sides",
        "usual names are found and noted; what is open is refused; a name that is given counts in every format",
        (
            "files/columns::usual_names_are_found_and_noted",
            "files/columns::columns_that_are_left_open_are_refused",
            "files/columns::columns_are_named_in_every_format_that_has_names",
            "files/columns::a_column_that_is_left_alone_is_not_looked_at",
            "files/columns::one_column_for_both_sides_is_refused",
            "files/formats::a_headed_table_is_read_whatever_it_is_called",
        ),
    ),
    Row(
        "ratings of 0 or less, and labels of 0 and 1, without a threshold",
        "a note with their number and the threshold that leaves them out",
        ("files/columns::rows_rated_nothing_or_less_are_counted_in_a_note",),
    ),
    Row(
        "words for nothing among ids: nan, NULL, None, \\N",
        "missing among numbers, `path:line`; among text an id, with a note",
        (
            "files/values::among_numbers_the_words_for_nothing_are_missing_ids",
            "files/values::among_text_they_count_as_ids_with_a_note",
        ),
    ),
    Row(
        "ids as floats, decimals, bytes or categories",
        "read where they are whole and exact, else named with type and row",
        (
            "files/values::ids_of_any_type_that_holds_them_exactly",
            "files/values::ids_that_are_none_are_named_with_type_and_row",
            "files/values::parquet_as_spark_pandas_and_duckdb_write_it",
        ),
    ),
    Row(
        "dates in any order, times past 2^53",
        "read where the column settles day and month, in full precision; else refused: write 2023-01-31",
        (
            "files/values::dates_that_settle_their_order_are_read",
            "files/values::dates_that_leave_day_and_month_open_are_refused",
            "files/values::times_keep_their_order",
            "files/values::dates_in_one_part_and_numbers_in_the_other_are_refused",
        ),
    ),
    Row(
        "decimal commas, and columns that nobody needs and that do not parse",
        "read, and not looked at; a comma that may mean thousands is refused",
        (
            "files/values::decimal_commas_of_spreadsheets",
            "files/values::commas_that_may_mean_thousands_are_refused",
            "files/values::columns_that_nobody_needs_need_not_parse",
        ),
    ),
    Row(
        "compressed text, and a table in many files",
        "read; refused where an archive holds several files, unpacks to gigabytes, or parts are missing or unlike",
        (
            "files/formats::compressed_text_is_read",
            "files/formats::archives_that_leave_it_open_or_grow_beyond_bounds_are_refused",
            "files/formats::the_parts_of_one_table_are_read_together",
            "files/formats::faults_of_parts_are_named_where_they_are",
            "files/formats::folders_that_name_a_column_give_it",
            "files/formats::train_and_test_as_they_lie_about",
        ),
    ),
    Row(
        "an item table of other separators, names, id types or place than the log",
        "read by the rules of the log: 0123 never has the title of 123",
        (
            "data/datasets::the_item_table_is_read_by_the_rules_of_the_log",
            "data/datasets::the_item_table_may_have_any_format",
            "data/datasets::labels_that_fit_no_item_are_noted_with_both_ids",
        ),
    ),
    Row(
        "one absurd id (10¹²)",
        "ids are remapped to a dense range; never a dense allocation",
        (
            "files/parsers::one_absurd_id_costs_no_memory",
            "data/interactions::dense_ids_are_their_own_rows_and_an_absurd_id_costs_nothing",
            "robustness/files::one_absurd_id_costs_nothing_from_file_to_recommendation",
        ),
    ),
    Row(
        "duplicates within or across user lines",
        "merged; a note with the count",
        ("data/interactions::build_agrees_with_a_slow_loop", "robustness/files::duplicates_are_merged_and_counted"),
    ),
    Row(
        "the same pair in train and test",
        "an error with the count; `overlap=drop_test` drops it from test",
        (
            "data/interactions::a_pair_in_both_parts_is_an_error_unless_dropped_from_test",
            "data/datasets::the_same_pair_in_train_and_test",
        ),
    ),
    Row(
        "a user who has every item",
        "the sampler terminates; the user yields no triplet; reported",
        (
            "sampler::a_user_who_has_every_item_is_not_trainable_and_refused",
            "train::users_who_have_every_item_yield_no_triplet",
            "robustness/files::a_user_who_has_everything_is_reported_and_training_ends",
        ),
    ),
    Row(
        "empty file; HTML page, Git-LFS pointer or truncated copy instead of data",
        "an error that names the likely cause",
        (
            "files/parsers::what_is_not_data_names_the_likely_cause",
            "files/parsers::other_broken_tables_name_the_file",
            "files/parsers::parquet",
            "data/datasets::a_truncated_copy_is_known_by_its_size",
            "files/completejourney::a_truncated_copy_or_another_table_is_refused_in_one_line",
            "robustness/files::a_damaged_parquet_file_never_takes_the_process_down",
        ),
    ),
    Row(
        "impossible fractions, k, widths or weights",
        "an error before data loads",
        (
            "data/splits::settings_that_are_not_name_the_value_and_the_remedy",
            "data/datasets::settings_are_refused_before_anything_is_read",
            "data/interactions::impossible_settings_fail_before_the_log_is_looked_at",
            "data/interactions::hold_out_settings_are_checked",
            "config::impossible_settings_are_refused_in_one_line_that_names_them",
            "widths::bad_widths_are_named_with_the_remedy",
            "widths::bad_level_weights_are_refused",
            "data/synthetic::impossible_settings_are_named",
            "evaluation/evaluate::impossible_ks",
            "robustness/files::a_catalogue_shorter_than_the_lists_is_refused_before_anything_is_written",
        ),
    ),
    Row(
        "missing timestamps for a temporal split; ties",
        "an error; a stable documented order",
        (
            "data/interactions::timed_splits_need_every_timestamp",
            "data/interactions::timed_splits_take_the_latest_and_break_ties_by_user_then_item",
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
            "robustness/notebooks::every_parameter_of_every_notebook_refuses_what_it_is_not",
            "robustness/notebooks::every_setting_of_every_section_refuses_what_it_is_not",
            "robustness/notebooks::every_parameter_of_every_notebook_reads_its_default_as_text",
            "robustness/notebooks::papermill_stops_every_notebook_at_a_wrong_value",
        ),
    ),
    Row(
        "NaN or Inf in loss, gradients or scores",
        "stops at that step; the last good checkpoint stays; never ranked, never saved",
        (
            "train::training_that_diverges_stops_there_and_leaves_the_last_checkpoint",
            "robustness/training::a_gradient_that_is_not_finite_stops_training_and_loses_nothing",
            "robustness/training::divergence_ends_the_process_with_an_error",
            "evaluation/evaluate::not_a_number_is_never_ranked",
            "evaluation/evaluate::scores_that_overflow_are_not_ranked",
            "runs/run::vectors_that_are_not_finite_are_not_saved",
            "hierarchy/clusters::nan_is_never_clustered",
        ),
    ),
    Row(
        "20,000 items with a taxonomy of 30, 336 and 1,500 classes in the hierarchy",
        "measured in bounded time and memory; work grows with the items, not with their square or clusters × trials",
        (
            "hierarchy/measure::twenty_thousand_items_of_1500_classes_are_measured_in_bounded_time_and_memory",
            "hierarchy/clusters::work_of_k_means_grows_with_the_items_however_many_clusters_there_are",
            "hierarchy/measure::a_depth_too_fine_for_the_items_is_left_out_and_said",
        ),
    ),
    Row(
        "unlabelled items that are all equally popular in the hierarchy",
        "the notebook leaves out what is not there",
        (
            "notebooks::hierarchy_leaves_out_what_is_not_there_of_unlabelled_items_that_are_equally_popular",
            "hierarchy/measure::blocks_without_any_probe_have_the_columns_of_one",
        ),
    ),
    Row(
        "equal scores",
        "ties break by item id, on CPU and GPU and for every batch size",
        (
            "evaluation/evaluate::top_k_is_a_stable_sort",
            "evaluation/evaluate::top_k_of_long_rows_with_ties",
            "evaluation/evaluate::chunks_change_nothing",
            "evaluation/evaluate::cuda_agrees_with_the_cpu",
        ),
    ),
    Row(
        "masked items",
        "never recommended, also when k exceeds what remains",
        (
            "runs/run::recommendations_leave_out_what_is_seen_and_end_where_nothing_is_left",
            "evaluation/evaluate::ranking_of_vectors_is_the_slow_one",
            "evaluation/evaluate::short_list_is_filled_with_misses",
        ),
    ),
    Row(
        "SIGKILL at any moment",
        "the checkpoint is whole, temporary files are cleared, and the end is that of an undisturbed run, bit for bit",
        (
            "robustness/kills::a_training_killed_again_and_again_ends_in_the_same_bits",
            "distributed/checkpoint::processes_killed_at_random_moments_end_in_the_same_bits",
            "distributed/checkpoint::a_run_that_was_stopped_ends_as_if_it_had_not",
            "distributed/epochs::processes_that_are_killed_leave_what_another_number_goes_on_from",
            "train::a_killed_run_resumes_to_the_same_bits",
            "runs/run::a_killed_writer_leaves_a_whole_checkpoint_and_no_lock",
            "runs/run::temporary_files_of_a_killed_writer_are_cleared",
            "runs/run::an_interrupted_run",
        ),
    ),
    Row(
        "disk full while saving",
        "an error; the previous checkpoint is whole; resumed where there is room, the end is the same bits",
        (
            "robustness/training::a_full_disk_stops_training_which_resumes_where_there_is_room",
            "robustness/training::a_file_that_may_grow_no_further_leaves_the_previous_checkpoint",
            "runs/run::a_full_disk_leaves_the_previous_checkpoint_whole",
            "distributed/checkpoint::where_it_cannot_be_written_the_last_one_stays",
            "runs/run::a_path_that_cannot_be_a_folder",
        ),
    ),
    Row(
        "an example of the README, typed as it stands",
        "does what the README says: Python and papermill lines are run, make lines looked at",
        (
            "readme::every_block_is_known",
            "readme::python_blocks_run_as_they_stand",
            "readme::papermill_lines_run_as_they_stand",
            "readme::python_lines_run_as_they_stand",
            "readme::make_lines_would_run_the_right_command",
            "readme::the_environments_of_the_readme_are_those_of_the_project",
        ),
    ),
    Row(
        "two data sets of one name, one after the other: a/clicks.csv and b/clicks.csv, planted with other settings",
        "the finished run of the first is not written over: one line says whose it is and what to give; a sweep "
        "refuses configs that share a directory; the same data by another path are the same",
        (
            "runs/directory::a_finished_run_of_another_file_is_refused_and_left_whole",
            "runs/directory::another_planted_taxonomy_is_other_data",
            "runs/directory::data_at_hand_are_known_by_their_fingerprint",
            "runs/directory::the_same_data_under_another_path_are_the_same",
            "runs/directory::other_settings_of_the_same_file_are_trained_in_its_place",
            "sweep::configs_of_a_sweep_do_not_share_a_directory",
            "controls/runs::controls_beside_those_of_other_data_are_refused_before_anything_is_trained",
        ),
    ),
    Row(
        "data that changed under a finished run",
        "the run does not count as finished: it is trained again, and says so; controls, study and report see it too",
        (
            "runs/directory::a_file_that_changed_is_trained_again_and_that_is_noted",
            "sweep::a_sweep_trains_again_what_was_made_of_data_that_changed",
            "controls/runs::runs_of_other_data_are_not_set_side_by_side",
            "study/run::data_that_changed_are_another_experiment",
        ),
    ),
    Row(
        "another working directory, a link or ~ after a run was loaded or trained",
        "the run is found: its path and that of its data set are absolute",
        ("runs/directory::a_run_is_found_again_from_another_folder",),
    ),
    Row(
        "users with one, two or three items; one user; 20 items; a core or threshold that leaves nothing",
        "what cannot be held out is refused at the start, with the reason and a remedy that helps; the rest trains",
        (
            "data/holdout::users_with_one_item_each_are_the_reason_and_no_setting_helps",
            "data/holdout::the_remedy_for_users_with_few_items_helps",
            "data/holdout::a_single_user_with_enough_items_is_enough",
            "data/holdout::data_at_hand_without_a_validation_part_say_how_to_make_one",
            "data/interactions::what_leaves_nothing_says_what_leaves_something",
            "train::what_cannot_be_held_out_is_said_before_anything_is_made",
            "train::the_smallest_data_that_can_be_held_out_train",
            "analysis/profile::lists_of_items_that_nobody_has_in_words",
        ),
    ),
    Row(
        "a checkpoint of another data set, other widths, another version",
        "an error that names both",
        (
            "runs/run::a_checkpoint_of_another_run_is_refused",
            "runs/run::a_file_of_another_format_version",
            "runs/run::a_run_of_an_earlier_version_says_so_in_one_line",
            "train::a_checkpoint_of_other_settings_or_data_is_not_taken_up",
        ),
    ),
    Row(
        "a pickled or tampered weights file; files of another run",
        "never unpickled; refused",
        (
            "runs/run::a_pickle_is_refused_and_not_opened",
            "runs/run::a_single_changed_byte_is_noticed",
            "runs/run::a_tampered_checkpoint_is_refused",
            "runs/run::weights_from_elsewhere_are_refused",
            "runs/run::weights_of_another_run_are_refused",
            "runs/run::damaged_files",
            "runs/run::missing_files",
            "runs/run::json_that_is_no_object",
            "runs/run::not_a_run_directory",
            "runs/run::seen_items_that_do_not_exist_are_refused",
            "runs/run::ids_with_a_missing_row_are_refused",
            "house::module_neither_prints_nor_unpickles_nor_evaluates_nor_seeds",
        ),
    ),
    Row(
        "archive with `../`, absolute names, links, devices, or gigabytes",
        "refused; nothing outside the cache; a byte limit",
        (
            "data/downloads::archives_that_reach_outside_are_refused",
            "data/downloads::archives_that_unpack_to_too_much_are_refused",
            "data/downloads::broken_archives_are_refused",
            "data/downloads::only_wanted_members_are_read",
            "data/downloads::an_endless_file_is_given_up",
        ),
    ),
    Row(
        "wrong checksum, dropped connection, 403, 404, redirect, slow server",
        "retried where it helps, then an error with the manual way; no partial file is seen as whole",
        (
            "data/downloads::a_fault_is_retried_where_it_helps_and_then_explained",
            "data/downloads::a_wrong_sha256_is_refused_too",
            "data/downloads::a_second_attempt_may_succeed",
            "data/downloads::a_server_that_only_drips_is_given_up",
            "data/downloads::without_room_the_cache_is_named",
            "data/downloads::a_wheel_with_other_contents_is_refused",
            "robustness/files::redirects_are_followed_checked_and_not_for_ever",
        ),
    ),
    Row(
        "two processes want the same data set or the same run directory",
        "one downloads, the other waits; the second writer is refused",
        (
            "data/downloads::two_processes_download_once_and_a_killed_one_leaves_nothing_half",
            "runs/run::the_second_writer_is_refused",
            "robustness/training::a_second_training_in_the_same_directory_is_refused",
        ),
    ),
    Row(
        "offline",
        "what is cached works; else one line with the manual way",
        (
            "data/downloads::an_unreachable_host_fails_fast_and_is_remembered",
            "data/downloads::both_sources_out_of_reach_give_both_reasons",
            "data/downloads::mrl_data_comes_first",
            "data/downloads::a_download_lands_whole_in_the_cache_and_is_not_repeated",
            "data/datasets::out_of_reach_names_the_files_and_the_folder",
            "robustness/files::what_is_cached_loads_offline",
        ),
    ),
    Row(
        "no CUDA; CUDA out of memory in evaluation",
        "runs on the CPU and says so; halves the chunk and gives the same metrics",
        (
            "train::a_gpu_that_is_not_there_is_refused_in_words",
            "evaluation/evaluate::out_of_memory_halves_the_chunk",
            "evaluation/evaluate::out_of_memory_with_one_user_is_an_error",
        ),
    ),
    Row(
        "a GPU that computes something wrong or not at all: CUDA graphs, bfloat16, TF32",
        "each is compared with the plain path once a run; where it differs or raises, one warning, and the plain path "
        "gives the same bits as if it had never been tried",
        (
            "kernels/cuda_graph::where_a_replay_is_wrong_steps_go_on_as_if_it_had_not_been",
            "kernels/cuda_graph::a_trainer_notices_other_negatives_and_goes_on_without_a_graph",
            "sampler::bfloat16_that_is_wrong_is_off_and_negatives_are_those_of_float32",
            "evaluation/evaluate::shortlists_by_tf32_are_compared_once_and_off_where_lists_differ",
        ),
    ),
    Row(
        "Ctrl-C in a notebook or papermill",
        "a resumable run directory",
        (
            "robustness/training::ctrl_c_leaves_a_directory_that_resumes_to_the_same_bits",
            "robustness/notebooks::ctrl_c_in_papermill_leaves_a_run_that_resumes",
        ),
    ),
    Row(
        "random bytes and mutated files of every kind that is read",
        "data or one of our errors in one line, in bounded time and memory",
        (
            "robustness/files::every_error_is_one_line_of_bounded_length",
            "robustness/fuzz::mutated_files_are_read_or_refused_in_one_line",
            "robustness/fuzz::any_bytes_are_read_or_refused_in_one_line",
            "robustness/fuzz::mutated_runs_are_read_or_refused_in_one_line",
        ),
    ),
    Row(
        "ids, tables and settings from Python: arrays, series, frames, paths; text ids beside numbers; bytes, null, "
        "5000.7, 2⁶³ + 5, k=3.0",
        "what is meant works; the rest is one line that names the value",
        (
            "data/ids::ids_are_read_from_whatever_holds_them",
            "data/ids::what_is_no_id_is_named_in_one_line",
            "data/ids::ids_of_pandas_and_arrow_are_read",
            "data/frames::a_log_is_read_from_whatever_holds_it",
            "data/frames::logs_of_pandas_and_arrow_are_read",
            "data/frames::what_is_no_log_is_named_in_one_line",
            "data/interactions::an_unknown_setting_of_build_is_named",
            "runs/run::users_are_known_by_their_id_whatever_holds_it",
            "runs/run::numbers_are_the_users_whose_text_they_are",
            "runs/run::what_is_no_user_is_named_in_one_line",
            "runs/run::impossible_settings_of_recommend_are_named",
            "runs/run::a_run_is_found_by_a_path_of_any_kind_and_nothing_else",
            "serving/fold_in::new_users_may_have_text_ids_beside_numbers",
            "serving/fold_in::new_items_may_have_text_ids_beside_numbers",
            "serving/fold_in::ids_of_a_new_user_are_checked_as_those_of_files",
            "serving/fold_in::impossible_settings_of_least_squares_are_named",
            "config::settings_are_taken_from_what_python_programs_hold",
            "config::settings_from_python_are_checked_as_those_of_notebooks",
        ),
    ),
    Row(
        "ratings below min_rating",
        "are met all the same: kept beside the positives, never recommended, never learned from",
        (
            "data/interactions::pairs_below_min_rating_are_kept_as_met",
            "data/interactions::data_that_lose_nothing_have_the_fingerprint_they_had",
            "data/interactions::what_a_given_test_part_drops_stays_unknown",
            "runs/run::what_was_dropped_is_never_recommended_and_not_among_the_positives",
            "serving/fold_in::what_a_new_user_rated_below_the_threshold_is_met_but_not_learned_from",
        ),
    ),
    Row(
        "the caller's process: forked workers, threads, another default dtype, no POSIX modules",
        "a loaded run serves the same lists",
        (
            "robustness/processes::forked_workers_serve_what_their_parent_serves",
            "robustness/processes::threads_at_once_get_the_same_lists",
            "robustness/processes::serving_is_the_same_with_any_default_dtype",
            "robustness/processes::training_is_the_same_with_any_default_dtype",
            "robustness/processes::every_module_is_imported_where_there_is_no_posix",
            "robustness/processes::threads_wait_without_spinning_unless_the_caller_says_otherwise",
            "runs/files::frames_are_read_the_same_in_a_forked_process",
        ),
    ),
)

PROPERTIES = (
    Row(
        "scores at width d",
        "equal the scores of the first d columns copied out",
        (
            "widths::prefix_scores_are_those_of_the_copied_columns",
            "evaluation/evaluate::scores_of_a_prefix_are_those_of_the_copied_columns",
        ),
    ),
    Row(
        "batch and chunk size",
        "change no result",
        (
            "evaluation/evaluate::chunks_change_nothing",
            "evaluation/evaluate::threads_and_many_rows_change_nothing",
            "controls/models::ease_is_its_closed_form",
        ),
    ),
    Row(
        "renumbering users or items",
        "permutes the results and changes nothing else",
        (
            "evaluation/evaluate::renumbering_changes_nothing_else",
            "least_squares/ials::renumbering_users_permutes_them",
        ),
    ),
    Row(
        "recall",
        "grows with k",
        ("evaluation/evaluate::recall_grows_with_k", "robustness/properties::recall_and_hits_grow_with_k"),
    ),
    Row(
        "a sampled negative",
        "is no known positive",
        ("kernels/candidates::no_candidate_is_ever_a_positive", "robustness/properties::no_rule_ever_picks_a_positive"),
    ),
    Row(
        "the nested loss with one width",
        "is the plain loss",
        (
            "loss::one_width_is_the_plain_loss_and_the_last_weight_alone_is_the_full_width",
            "robustness/properties::one_width_is_the_plain_loss_and_the_last_weight_alone_the_full_width",
        ),
    ),
    Row(
        "weights (0, …, 0, 1)",
        "give the full-width model",
        (
            "loss::one_width_is_the_plain_loss_and_the_last_weight_alone_is_the_full_width",
            "robustness/properties::one_width_is_the_plain_loss_and_the_last_weight_alone_the_full_width",
            "robustness/properties::weight_on_the_last_width_alone_trains_the_full_width_model",
        ),
    ),
    Row(
        "a seed",
        "gives the same weights on every repeat with the threads that environment.json states; what differs between "
        "two runs is told",
        (
            "train::a_seed_repeats_bit_for_bit_and_another_does_not",
            "robustness/training::a_seed_gives_the_same_bits_in_any_process_and_with_the_threads_it_says",
            "runs/run::differences",
            "runs/run::environment",
        ),
    ),
)


def test_name(test: str) -> str:
    """`wing/file::test` of the table as pytest has it: `wing/test_file.py::test_test`."""
    path, _, name = test.partition("::")
    *folders, file = path.split("/")
    return "/".join([*folders, f"test_{file}.py::test_{name}"])


test_name.__test__ = False  # type: ignore[attr-defined]
