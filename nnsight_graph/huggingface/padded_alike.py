"""Classes of transformers that give padded prompts the numbers that they get alone: found by running them, see tests/huggingface."""

PADDED_ALIKE = frozenset(
    """AXK1ForCausalLM AXK2ForCausalLM AfmoeForCausalLM AlbertForMaskedLM Apertus1p5TextForCausalLM ApertusForCausalLM
    ArceeForCausalLM AriaTextForCausalLM BartForCausalLM BartForConditionalGeneration BeamForCausalLM BertForMaskedLM
    BertGenerationDecoder BertLMHeadModel BioGptForCausalLM BitNetForCausalLM BlenderbotForCausalLM
    BlenderbotForConditionalGeneration BlenderbotSmallForCausalLM BlenderbotSmallForConditionalGeneration BloomForCausalLM
    CTRLLMHeadModel CamembertForCausalLM CamembertForMaskedLM CodeGenForCausalLM Cohere2ForCausalLM Cohere2MoeForCausalLM
    CohereCompassForCausalLM CohereForCausalLM CwmForCausalLM Data2VecTextForCausalLM Data2VecTextForMaskedLM
    DbrxForCausalLM DebertaForMaskedLM DebertaV2ForMaskedLM DeepseekV2ForCausalLM DeepseekV32ForCausalLM
    DeepseekV3ForCausalLM DiffLlamaForCausalLM DistilBertForMaskedLM DogeForCausalLM DoryForCausalLM Dots1ForCausalLM
    ElectraForCausalLM ElectraForMaskedLM Emu3ForCausalLM EncoderDecoderModel Ernie4_5ForCausalLM Ernie4_5_MoeForCausalLM
    ErnieForCausalLM ErnieForMaskedLM EsmForMaskedLM EsmcForMaskedLM EuroBertForMaskedLM Exaone4ForCausalLM
    ExaoneMoeForCausalLM FalconForCausalLM FlaubertWithLMHeadModel FlexOlmoForCausalLM FlintForCausalLM FuyuForCausalLM
    GPT2LMHeadModel GPTBigCodeForCausalLM GPTJForCausalLM GPTNeoForCausalLM GPTNeoXForCausalLM GPTNeoXJapaneseForCausalLM
    Gemma2ForCausalLM Gemma3ForCausalLM Gemma3ForConditionalGeneration Gemma3nForCausalLM Gemma4ForCausalLM
    Gemma4ForConditionalGeneration Gemma4UnifiedForCausalLM Gemma4UnifiedForConditionalGeneration GemmaForCausalLM
    GitForCausalLM Glm4ForCausalLM Glm4MoeForCausalLM Glm4MoeLiteForCausalLM GlmForCausalLM GlmMoeDsaForCausalLM
    GotOcr2ForConditionalGeneration GptOssForCausalLM GraniteForCausalLM GraniteMoeForCausalLM GraniteMoeSWAForCausalLM
    GraniteMoeSharedForCausalLM GraniteSWAForCausalLM GteForMaskedLM HYV3ForCausalLM HYV4ForCausalLM HeliumForCausalLM
    HrmTextForCausalLM HunYuanDenseV1ForCausalLM HunYuanMoEV1ForCausalLM HyperCLOVAXForCausalLM IBertForMaskedLM
    Jais2ForCausalLM JetMoeForCausalLM JinaEmbeddingsV3ForMaskedLM Kolibri1ForCausalLM LagunaForCausalLM LayoutLMForMaskedLM
    Lfm2ForCausalLM Llama4ForCausalLM LlamaForCausalLM LongcatFlashForCausalLM LukeForMaskedLM
    M2M100ForConditionalGeneration MBartForCausalLM MBartForConditionalGeneration MPNetForMaskedLM
    MT5ForConditionalGeneration MarianForCausalLM MarianMTModel MegatronBertForCausalLM MegatronBertForMaskedLM
    MellumForCausalLM MiMoV2FlashForCausalLM MiniCPM3ForCausalLM MiniMaxM2ForCausalLM MiniMaxM3VLForCausalLM
    Ministral3ForCausalLM MinistralForCausalLM MistralForCausalLM MixtralForCausalLM MllamaForCausalLM
    ModernBertDecoderForCausalLM ModernBertForMaskedLM ModernVBertForMaskedLM MoshiForCausalLM MptForCausalLM MvpForCausalLM
    MvpForConditionalGeneration NanoChatForCausalLM NemotronForCausalLM NeoMMEForMaskedLM NllbMoeForConditionalGeneration
    NomicBertForMaskedLM OPTForCausalLM Olmo2ForCausalLM Olmo3ForCausalLM OlmoForCausalLM OlmoeForCausalLM
    OpenAIGPTLMHeadModel PLBartForCausalLM PLBartForConditionalGeneration PegasusForCausalLM PegasusForConditionalGeneration
    PersimmonForCausalLM Phi3ForCausalLM PhiForCausalLM PhimoeForCausalLM Qwen2ForCausalLM Qwen2MoeForCausalLM
    Qwen3ASRForConditionalGeneration Qwen3ForCausalLM Qwen3MoeForCausalLM RemBertForCausalLM RemBertForMaskedLM
    RoCBertForCausalLM RoCBertForMaskedLM RoFormerForCausalLM RoFormerForMaskedLM RobertaForCausalLM RobertaForMaskedLM
    RobertaPreLayerNormForCausalLM RobertaPreLayerNormForMaskedLM SeamlessM4TForTextToText SeamlessM4Tv2ForTextToText
    SeedOssForCausalLM SmolLM3ForCausalLM SolarOpenForCausalLM SqueezeBertForMaskedLM StableLmForCausalLM
    Starcoder2ForCausalLM SwitchTransformersForConditionalGeneration T5ForConditionalGeneration
    T5Gemma2ForConditionalGeneration T5GemmaForConditionalGeneration TapasForMaskedLM TrOCRForCausalLM
    UMT5ForConditionalGeneration UltraVBertForMaskedLM UltrabertForMaskedLM VaultGemmaForCausalLM WhisperForCausalLM
    XGLMForCausalLM XLMRobertaForCausalLM XLMRobertaForMaskedLM XLMRobertaXLForCausalLM XLMRobertaXLForMaskedLM
    XLMWithLMHeadModel XLNetLMHeadModel XmodForCausalLM XmodForMaskedLM YoutuForCausalLM""".split()
)

# Attention in blocks, landmarks or hashes, cut by how long the batch is: every padded batch of these is checked.
BY_LENGTH = ("BigBird", "Funnel", "LED", "LongT5", "Longformer", "Mra", "Nystromformer", "PegasusX", "Perceiver", "Reformer", "Yoso")
