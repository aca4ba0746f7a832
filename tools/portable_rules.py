"""What a person decided about operations in files of strangers: the part of ops/portable.tsv that no tool can derive.

`~x` stands for each of `.x`, `@x`, `torch.x`, `torch.nn.functional.x` and `torch.linalg.x` that there is, `*` for any text.
"""

# Reason: what is refused for it. The first that fits holds, and each holds over whatever allows a name.
DENY = {
    "memory": """
 .apply_ ~as_strided* ~asarray ~const_data_ptr ~data_ptr ~empty_strided @data ~from_dlpack ~to_dlpack ~from_numpy ~frombuffer .is_pinned
 .is_shared .pin_memory .record_stream ~resize* .set_ .share_memory_ .slice_inverse torch.slice_inverse .storage .storage_type
 .untyped_storage .module_load ~ctc_loss ~embedding_bag ~ldl_solve ~lu_unpack ~eigvals ~segment_reduce ~batch_norm_*
 ~native_batch_norm ~native_group_norm
 ~native_layer_norm ~fused_moving_avg_obs_fake_quant ~choose_qparams_optimized""",
    "uninitialized": "~empty ~empty_like ~empty_permuted .new .new_empty .new_empty_strided",
    "files": "torch.from_file torch.load torch.save torch.get_file_path torch.import_ir_module torch.import_ir_module_from_buffer",
    "numpy": ".numpy .astype .__array__",
    "callable": """
 .map_ .map2_ .register_hook .register_post_accumulate_grad_hook torch.compile torch.cond torch.vmap torch.while_loop torch.fork
 torch.wait torch.nn.functional.boolean_dispatch torch.nn.functional.handle_torch_function""",
    "autograd-internals": """
 .backward @grad @grad_fn @grad_dtype @output_nr ~unsafe_chunk ~unsafe_split ~unsafe_split_with_sizes ~norm_except_dim""",
    "global-state": """
 torch.seed torch.initial_seed torch.manual_seed torch.thread_safe_generator torch.get_autocast* torch.get_default_*
 torch.get_deterministic* torch.get_device_module torch.get_float32* torch.get_num_* torch.get_rng_state torch.set_* torch.is_anomaly*
 torch.is_autocast* torch.is_deterministic* torch.are_deterministic* torch.is_grad_enabled torch.is_inference_mode_enabled
 torch.is_vulkan_available torch.is_warn_always_enabled torch.autocast* torch.clear_autocast_cache torch.use_deterministic_algorithms
 torch.no_grad torch.enable_grad torch.inference_mode torch.init_num_threads torch.compiled_with_cxx11_abi torch.profiler_*""",
    "process": "torch.prepare_multiprocessing_environment",
    "distributed": "~is_distributed",
    "sparse": """
 .ccol_indices .col_indices .crow_indices .row_indices .indices .coalesce .is_coalesced .dense_dim .sparse_dim .sparse_mask
 .sparse_resize_* .smm .sspaddmm .to_dense .to_sparse* torch.*_indices_copy torch.indices_copy torch.values_copy torch.sparse_*
 torch.dsmm torch.hsmm torch.hspmm torch.saddmm torch.smm torch.spmm torch.sspaddmm""",
    "nested-layout": ".to_padded_tensor",
    "quantized": """
 .dequantize .int_repr .qscheme .q_* torch.dequantize torch.int_repr torch.q_* torch.quantize_* torch.quantized_* torch.empty_quantized
 torch.fake_quantize_* torch.nn.functional.scaled_mm torch.nn.functional.scaled_grouped_mm torch.fbgemm_*""",
    "device-specific": ".ipu .to_mkldnn torch.cudnn_* torch.miopen_* torch.mkldnn_* torch.nn.functional.grouped_mm",
    "undocumented": """
 torch.native_norm torch.native_dropout torch.gru torch.gru_cell torch.lstm torch.lstm_cell torch.rnn_* torch.embedding_renorm_
 torch.convolution torch.grid_sampler* torch.affine_grid_generator""",
    "compiler": """
 torch.sym_* torch.merge_type_from_type_comment torch.parse_* torch.unify_type_list""",
    "named-tensors": """
 @name @names .align_as .align_to .refine_names .rename .rename_ torch.align_tensors""",
    "removed": ".eig .lstsq .solve .symeig .reinforce @volatile torch.eig torch.lstsq torch.matrix_rank torch.solve torch.symeig",
    "python-object": ".__copy__ .as_subclass torch.is_storage",
    "iterator": ".__iter__",
    "format": ".format .format_map .__format__",
    "not-an-operation": """
 torch.classproperty torch.typename torch.nn.functional.assert_int_or_pair torch.nn.functional.has_torch_function*
 torch.nn.functional.Optional torch.nn.functional.Callable""",
}

# Methods of containers and strings beside those of table.tsv, fields of what torch and models return, and a few of values such as dtypes.
ALLOW = """
 .add .discard .isdisjoint .symmetric_difference .translate .rfind .isdigit .isalpha .isspace .zfill .get_seq_length

 @values @indices @eigenvalues @eigenvectors @Q @R @L @U @S @V @Vh @LU @LD @P @pivots @sign @logabsdet @mantissa @exponent @hist
 @bin_edges @solution @residuals @rank @singular_values @info @tau @cloned_coefficient @type @index @is_floating_point @is_complex

 @logits @last_hidden_state @hidden_states @attentions @past_key_values @loss @cross_attentions @pooler_output @pooled_output @aux_loss
 @encoder_last_hidden_state @encoder_hidden_states @encoder_attentions @decoder_hidden_states @decoder_attentions @image_hidden_states
 @audio_hidden_states @video_hidden_states @vision_hidden_states @language_hidden_states @intermediate_hidden_states @router_logits
 @reshaped_hidden_states @attention_mask @sequences @sequences_scores @scores @beam_indices @start_logits @end_logits @cls_logits
 @prediction_logits @seq_relationship_logits @prediction_outputs @logits_per_text @logits_per_image @text_embeds @image_embeds
 @image_embeddings @audio_embeds @video_embeds @embeddings @text_model_output @vision_model_output @text_outputs @vision_outputs
 @projected_states @mems @cache_params @mask @pred_masks @pred_boxes @masks_queries_logits @class_queries_logits @iou_scores
 @predicted_depth @reconstruction @latents @sample @prev_sample @pred_original_sample @images @latent_dist @mean @std @audio
 @audio_values @audio_codes @waveform @spectrogram @feature_maps @backbone_features @input_ids @position_ids @token_type_ids
 @inputs_embeds @pixel_values @labels""".split()

# Keyword arguments that no file may give, whichever function takes them.
CLOSED_KEYWORDS = set("""
 out layout pin_memory non_blocking async generator names sparse sparse_grad is_sparse check_invariants unsafe distance_function tracker
 options output_size@repeat_interleave""".split())

# Python's functions, and methods of containers and strings: signatures that cannot be read, as `keywords / most operands`.
SIGNATURES = {
    "/1": """
 len bool float str any all reversed truth neg pos invert not_ list tuple set dict .__bool__ .__complex__ .__float__ .__index__ .__int__
 .__len__ .__reversed__ .clear .items .keys .as_integer_ratio .bit_length .is_integer .capitalize .lower .title .upper .isdigit .isalpha
 .isspace .popitem .to_tuple .reverse .hex .copy .values .cfloat .cdouble abs""",
    "/2": """
 .__contains__ .__deepcopy__ .append .extend .remove .discard .join .isdisjoint .issubset .issuperset .symmetric_difference .update
 .strip .lstrip .rstrip .translate .zfill .__radd__ .__rand__ .__rdiv__ .__rdivmod__ .__rfloordiv__ .__rlshift__ .__rmatmul__ .__rmod__
 .__rmul__ .__ror__ .__rpow__ .__rrshift__ .__rsub__ .__rtruediv__ .__rxor__ .get_seq_length int divmod .pop add and_ contains delitem
 eq floordiv ge getitem gt iadd iand ifloordiv ilshift imatmul imod imul ior ipow irshift is_ is_not isub itruediv ixor le lshift lt
 matmul mod mul ne or_ pow rshift sub truediv xor""",
    "/3": ".insert .setdefault .get .pop setitem range",
    "/4": ".index .count .startswith .endswith .find .rfind .replace",
    "/": ".union .intersection .difference zip",
    "default/": "min max",
    "strict/": "zip",
    "reverse/1": "sorted",
    "start/2": "sum enumerate",
    "ndigits/2": "round",
    "encoding errors/3": ".encode .decode",
    "keepends/2": ".splitlines",
    "sep maxsplit/3": ".rsplit",

    # both a tensor's and a container's or a string's
    "split_size dim sep maxsplit/3": ".split",
    "dim descending stable reverse/3": ".sort",
    # torch's own, where neither stubs nor schemas know them
    "dtype device memory_format copy/5": ".to",
    "dtype/2": ".type",
    "device memory_format/2": ".cuda .mtia .xpu",
    "memory_format/1": ".cpu",
    "dtype device requires_grad/3": "torch.tensor torch.as_tensor",
    "dtype device requires_grad/2": ".new_tensor",
    "requires_grad/2": ".requires_grad_",
    "tensor other/2": "torch.result_type",
    "type1 type2/2": "torch.promote_types",
    "from_ to/2": "torch.can_cast",
    "from to/3": ".uniform_ .random_",
    "input/1": "torch.numel torch.nn.functional.logsigmoid",
    "input sorted return_inverse return_counts dim/5": "torch.unique",
    "input return_inverse return_counts dim/4": "torch.unique_consecutive",
    "A pivot get_infos/3": "torch.lu",
    "repeats dim/3": ".repeat_interleave",
    "input repeats dim/3": "torch.repeat_interleave",
}

# Divisions of integers that end the process, where the processor traps: a test finds those that are not here (tests/serialize).
TRAPS = "~div ~div_ ~divide ~divide_ ~lcm ~lcm_".split()

# Results that may be larger than all arguments together, because numbers say so or as a product of shapes.
ALLOCATES = """
 mul imul pow ipow lshift ilshift mod imod .__rmatmul__ matmul imatmul range getitem .join .replace .zfill .translate .__rmul__
 .__rpow__ .__rlshift__ .__rmod__ ~arange ~range ~linspace ~logspace ~zeros ~ones ~full ~eye ~rand ~randn ~randint ~randperm ~normal
 ~*_window ~tril_indices ~triu_indices ~scalar_tensor .new_full .new_ones .new_zeros torch.fft.*fft torch.fft.*fft2 torch.fft.*fftn
 torch.fft.*freq ~broadcast_to ~broadcast_tensors ~expand ~expand_as ~expand_copy ~repeat ~tile ~repeat_interleave ~kron ~outer ~ger
 ~addr* ~inner ~cartesian_prod ~combinations ~meshgrid ~block_diag ~einsum ~tensordot ~chain_matmul ~multi_dot ~matmul ~mm ~bmm ~addmm*
 ~addbmm* ~baddbmm* ~mv ~addmv* ~linear ~bilinear ~cdist ~pdist ~cov ~corrcoef ~vander ~one_hot ~diag ~diag_embed ~diagflat ~bincount
 ~histc ~histogram ~histogramdd ~multinomial ~nonzero_static ~unfold ~unfold_copy ~fold ~stft ~istft ~pad ~constant_pad_nd ~interpolate
 ~upsample* ~affine_grid ~grid_sample ~adaptive_* ~max_unpool* ~conv1d ~conv2d ~conv3d ~conv_tbc ~conv_transpose* ~local_response_norm
 ~avg_pool* ~max_pool* ~lp_pool* ~fractional_max_pool* ~embedding ~embedding_bag ~index_select ~take ~quantile ~nanquantile ~mvlgamma*
 torch.special.multigammaln ~chunk ~tensor_split ~hsplit ~vsplit ~dsplit ~lu ~lu_unpack ~qr ~svd ~geqrf ~svd_lowrank ~pca_lowrank
 ~tensorinv ~pinv ~pinverse ~scaled_dot_product_attention ~multi_head_attention_forward ~linear_cross_entropy ~gradient
 ~split_with_sizes ~diff ~*_loss ~*cross_entropy* ~kl_div ~cosine_similarity ~pairwise_distance ~dist ~allclose ~vecdot ~masked_scatter
 ~take_along_dim ~isin ~solve ~solve_ex ~solve_triangular ~lu_solve ~cholesky_solve ~triangular_solve ~tensorsolve ~gumbel_softmax
 ~householder_product ~orgqr ~ormqr ~lstsq ~view_as_complex ~trapezoid ~cumulative_trapezoid ~binomial ~cross""".split()
