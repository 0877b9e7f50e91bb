from attnseg_jax.ops.attention.dense import attention_weights, dot_product_attention
