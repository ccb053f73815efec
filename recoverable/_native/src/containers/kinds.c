/* kinds.c -- the table of kinds: what transactions, verification and reclaiming ask of a container. */
#include "containers.h"

#define KIND(name_, struct_) .name = name_, .size = sizeof(struct struct_)
#define DICT .reclaim = dict_reclaim, .check = dict_check, .apply = dict_apply, .resume = dict_resume, .sum = dict_sum, .slot_text = dict_slot_text

const struct rcv_kind rcv_kinds[RCV_KINDS] = {
    [RCV_K_DICT] = {KIND("Dict", rcv_dict), DICT},
    [RCV_K_SET] = {KIND("Set", rcv_dict), DICT},
    [RCV_K_LIST] = {KIND("List", rcv_list), .reclaim = list_reclaim, .check = list_check, .counts_are_words = true},
    [RCV_K_DEQUE] = {KIND("Deque", rcv_deque), .reclaim = deque_reclaim, .check = deque_check},
    [RCV_K_COUNTER] = {KIND("Counter", rcv_counter), .reclaim = counter_reclaim, .check = counter_check, .sum = counter_sum},
    [RCV_K_RECORD] = {KIND("Record", rcv_record), .reclaim = record_reclaim, .check = record_check, .shape_moves_keys = true,
                      .slot_text = record_slot_text},
    [RCV_K_ARRAY] = {KIND("Array", rcv_array), .reclaim = array_reclaim, .check = array_check},
};
